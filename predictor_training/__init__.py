"""Training, with optax: the bundled language model, and predictors of which neurons a token needs.

``python -m predictor_training`` goes from a model to an artifact, stage by stage; each stage is a function on a traced
model, for any Flax model or plain function whose feed-forward layers ``comet_jax.passes.sites`` finds:

| | |
|---|---|
| ``tasks`` | a function, its weights, its examples and its loss |
| ``layers``, ``graphs`` | the layers in its graph: watched, weighed, and gated |
| ``collect`` | their inputs, and what attention opens before them, to disk |
| ``cluster``, ``targets``, ``train`` | blocks of neurons, what a gate is worth, and fits of that |
| ``calibrate``, ``fixed_point`` | thresholds, budgets and capacities; scores as the private program has them |
| ``evaluate`` | the loss with all layers gated |
| ``finetune`` | weights that need fewer neurons, or are used to their gates |
| ``export`` | the artifact |
"""
