"""Pictures of detections."""

__all__: list[str] = []
