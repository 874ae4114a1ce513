"""Content-aware reassembly of features (CARAFE), an upsampling operator."""

from .op import can_run_carafe, carafe

__all__ = ["can_run_carafe", "carafe"]
