"""What a model makes of its data: figures and measurements beside the tables of an evaluation."""

TSNE, DIST, DOMAIN = MODES = "tsne", "dist", "domain"
