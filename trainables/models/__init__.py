"""The zoo: every model is made by name and returns `Outputs`."""

from trainables.models.outputs import Network, Outputs, Shapes
from trainables.models.registry import canonical_name, create_model, describe_models
from trainables.models.shapes import output_shapes

__all__ = [
    "Network",
    "Outputs",
    "Shapes",
    "canonical_name",
    "create_model",
    "describe_models",
    "output_shapes",
]
