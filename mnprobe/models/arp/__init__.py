"""ARP: the chunking causal transformer policy that carries an instruction out (pure torch, official weight names)."""
