"""Predictors of activation sparsity: what a gate asks, and the file that it comes in. Training is elsewhere."""

from comet_jax.predictors.artifact import Layer, Predictor, Site

__all__ = ["Layer", "Predictor", "Site"]
