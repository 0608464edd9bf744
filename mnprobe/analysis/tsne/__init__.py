"""t-SNE: inputs, embeddings, maps, figures and the slider page."""
