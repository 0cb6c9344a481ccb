"""Word vectors: file formats, tables on disk, tokens, vocabulary and the embedding stage."""
