"""Helpers that know nothing of re-identification: errors, files, logging, registries."""
