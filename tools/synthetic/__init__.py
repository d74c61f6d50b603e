"""Synthetic people in the layouts of the data sets: looks, scenes, folders, publishers' archives."""
