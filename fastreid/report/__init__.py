"""What runs left behind, for people: one table over many runs, and a page about some of them."""
