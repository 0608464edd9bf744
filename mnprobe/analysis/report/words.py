"""Words that every report explains: why each control is there, and what the terms mean."""

__all__ = ["CONTROLS", "GLOSSARY"]

CONTROLS = (
    (
        "Instruction blanked",
        "The policy is told the instruction, and the probe asks for the instruction: a policy with random weights "
        "passes it "
        "on and scores nearly as high as a trained one. With the instruction blanked, only what the policy saw and "
        "did is left.",
        "mnprobe extract --model arp --blank-instruction",
    ),
    (
        "Step 0",
        "The same networks before any training. What training adds is the distance to this level, not to chance.",
        "mnprobe init, then mnprobe extract and align as usual",
    ),
    (
        "Pixels instead of u",
        "Colours and places of the pictures alone, without a model. A score that pixels reach needs no understanding.",
        "mnprobe extract --model pixels",
    ),
    (
        "Shuffled pairs",
        "Heads fitted on pairs that do not belong together. They must not score above chance; if they do, "
        "something leaks.",
        "part of mnprobe align",
    ),
    (
        "The policy's own episodes",
        "Demonstrations were carried out by an expert. Episodes that the policy played itself show what it does, "
        "not what "
        "it was shown.",
        "features with source rollouts",
    ),
)

GLOSSARY = (
    ("u", "what the understanding model makes of a watched action: the output feature of its video encoder"),
    ("e", "what the execution model carries while it acts: the output of the last block of its policy network"),
    ("z_u, z_e", "u and e mapped into one space by the two heads T_u and T_e"),
    (
        "heads",
        "two linear maps, fitted with the bidirectional InfoNCE loss on training episodes; the models stay frozen",
    ),
    (
        "Recall@1",
        "for each test item of one side, is the nearest item of the other side of the same group? The share of yes, "
        "averaged over both directions; ties count by expectation",
    ),
    ("group", "what counts as the same action: the episode, the instruction or the task (the pairing)"),
    ("chance", "what random ranking would score on this very test set; not 1/n where groups repeat or differ in size"),
    (
        "95 % interval",
        "cluster jackknife: each instruction is left out in turn, as its episodes are alike, and what the score varies "
        "by is multiplied by Student's t, wider where instructions are few; shares on the scale of log-odds, so that "
        "they stay between 0 and 100 %; where every query hits or misses, the binomial bound for as many trials as "
        "instructions",
    ),
    (
        "holdout",
        "what the test set has that training had not: new episodes of known instructions, new instructions, or new "
        "tasks. "
        "Two models that carry nothing but an instruction's number score 100 % when episodes are held out and "
        "chance when "
        "instructions are",
    ),
    ("n, groups, gallery", "test episodes, groups among them, and items that each query is ranked against"),
    ("seeds", "how often the heads were fitted anew from other random starts; sd is the spread this makes"),
    ("step", "optimiser steps of the model that was checkpointed; step 0 has random weights"),
    (
        "mutual-information bound",
        "log B minus the loss on held-out batches of B pairs, in nats; it cannot exceed log B",
    ),
    (
        "trustworthiness",
        "share (0 to 1) of neighbours in a t-SNE picture that are neighbours in the space too, weighted by how far "
        "off the "
        "others are",
    ),
)
