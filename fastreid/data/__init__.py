"""Data sets, samplers, transforms and loaders."""

from fastreid.data.build import TrainLoaders, build_test_loader, build_train_loaders, load_test_set, load_training_data

__all__ = ["TrainLoaders", "build_test_loader", "build_train_loaders", "load_test_set", "load_training_data"]
