"""Word vectors as a backbone: file formats, tables kept on disk, tokens and vocabulary."""
