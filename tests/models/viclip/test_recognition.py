"""Zero-shot recognition and the contrastive loss against slow definitions."""

import math

import pytest
import torch
import torch.nn.functional as F

from mnprobe.core.errors import ConfigError
from mnprobe.models.viclip import (
    Recognition,
    Tokenizer,
    ViCLIP,
    ViCLIPConfig,
    clean_caption,
    contrastive_loss,
    recognise,
    zero_shot,
)

TEXTS = ["open the top drawer", "reach the red target", "push the maroon button, then push the green button"]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def tiny() -> ViCLIP:
    return ViCLIP(ViCLIPConfig.tiny(), generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.randn(2, 4, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def test_a_class_with_several_texts_scores_the_mean_of_its_cosines(generator):
    video, text = torch.randn(2, 5, generator=generator), torch.randn(4, 5, generator=generator)
    classes = torch.tensor([1, 0, 1, 1])
    logits = zero_shot(video, text, classes=classes)
    for b in range(2):
        for m in range(2):
            cosines = [F.cosine_similarity(video[b], text[p], dim=0).item() for p in range(4) if classes[p] == m]
            assert logits[b, m].item() == pytest.approx(100 * sum(cosines) / len(cosines), abs=1e-4)


def test_one_text_per_class_is_the_plain_case(generator):
    video, text = torch.randn(2, 5, generator=generator), torch.randn(4, 5, generator=generator)
    torch.testing.assert_close(zero_shot(video, text), zero_shot(video, text, classes=torch.arange(4)))
    torch.testing.assert_close(zero_shot(7 * video, text / 3), zero_shot(video, text))
    torch.testing.assert_close(zero_shot(video, text, scale=1.0) * 100, zero_shot(video, text))


def test_recognition_uses_the_constant_scale_and_the_models_tokens(tiny, clips):
    found = recognise(tiny, clips, TEXTS, top=2)
    with torch.no_grad():
        logits = zero_shot(tiny.encode_video(clips), tiny.encode_text(Tokenizer(32).tokenize(TEXTS)))
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.probabilities, logits.softmax(dim=1))
    assert found.labels.shape == (2, 2)
    assert torch.equal(found.labels[:, 0], logits.argmax(dim=1))
    assert not found.logits.requires_grad


def test_captions_are_cleaned_on_request(tiny, clips):
    cleaned = recognise(tiny, clips, TEXTS, clean=True)
    torch.testing.assert_close(cleaned.logits, recognise(tiny, clips, [clean_caption(text) for text in TEXTS]).logits)
    assert not torch.allclose(cleaned.logits[:, 2], recognise(tiny, clips, TEXTS).logits[:, 2], atol=1e-4)


def test_phrasings_may_be_of_unequal_number(tiny, clips):
    found = recognise(tiny, clips, [[TEXTS[0], TEXTS[1]], [TEXTS[2]]])
    single = recognise(tiny, clips, TEXTS).logits
    torch.testing.assert_close(found.logits[:, 0], single[:, :2].mean(dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logits[:, 1], single[:, 2], atol=1e-4, rtol=1e-4)


def test_impossible_questions_are_errors(tiny, clips):
    with pytest.raises(ConfigError, match=r"between 1 and the number of candidate texts \(3\), got 5"):
        recognise(tiny, clips, TEXTS, top=5)
    with pytest.raises(ConfigError, match="got 0"):
        Recognition.of(torch.zeros(1, 3), top=0)
    with pytest.raises(ConfigError, match="each class needs at least one text"):
        recognise(tiny, clips, [["push"], []])
    with pytest.raises(ConfigError, match="each class needs at least one text"):
        recognise(tiny, clips, [])
    with pytest.raises(ConfigError, match="at least one candidate text"):
        zero_shot(torch.ones(1, 2), torch.ones(0, 2))
    with pytest.raises(ConfigError, match=r"leave none of 0\.\.max out, got 2 numbers, among them \[0, 2\]"):
        zero_shot(torch.ones(1, 2), torch.ones(2, 2), classes=torch.tensor([0, 2]))


def slow_loss(video, text, temperature, ids):
    """The definition, one sample after the other."""
    n, total = len(video), 0.0
    for rows, columns in ((video, text), (text, video)):
        for i in range(n):
            scores = [F.cosine_similarity(rows[i], columns[j], dim=0).item() / temperature for j in range(n)]
            norm = math.log(sum(math.exp(score) for score in scores))
            same = [j for j in range(n) if ids[j] == ids[i]]
            total -= sum(scores[j] - norm for j in same) / len(same)
    return total / (2 * n)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4], [0, 1, 0, 0, 1], [3, 3, 3, 3, 3]])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_the_loss_equals_the_slow_one(generator, ids, temperature):
    video, text = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    ours = contrastive_loss(video, text, temperature, ids=torch.tensor(ids))
    assert ours.item() == pytest.approx(slow_loss(video, text, temperature, ids), rel=1e-9)
    if len(set(ids)) == 5:
        torch.testing.assert_close(ours, contrastive_loss(video, text, temperature))


def test_the_loss_is_at_chance_when_all_features_agree():
    same = torch.ones(8, 4)
    torch.testing.assert_close(contrastive_loss(same, same, 0.05), torch.tensor(math.log(8)))


def test_the_loss_is_symmetric_and_blind_to_scale(generator):
    video, text = torch.randn(2, 6, 4, generator=generator)
    torch.testing.assert_close(contrastive_loss(video, text, 0.1), contrastive_loss(text, video, 0.1))
    torch.testing.assert_close(contrastive_loss(3 * video, text, 0.1), contrastive_loss(video, text, 0.1))


def test_the_gradient_of_the_loss_is_that_of_finite_differences(generator):
    video, text = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1, 0, 2])
    assert torch.autograd.gradcheck(lambda v, t, tau: contrastive_loss(v, t, tau, ids=ids), (video, text, temperature))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        contrastive_loss(torch.ones(2, 2), torch.ones(2, 2), temperature)


def test_training_the_tiny_model_on_four_clips_learns_them(generator):
    """Before: chance. After a few steps: each clip finds its text."""
    texts = ["open the drawer", "push the button", "take the lid off", "stack two blocks"]
    clips = torch.randn(4, 4, 3, 96, 96, generator=generator)
    model = ViCLIP(ViCLIPConfig.tiny(), generator=generator).train()
    ids = Tokenizer(32).tokenize(texts)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(18):
        loss = contrastive_loss(model.encode_video(clips), model.encode_text(ids), 0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > math.log(4)
    assert losses[-1] < 0.1
    assert recognise(model.eval(), clips, texts).labels.flatten().tolist() == [0, 1, 2, 3]
