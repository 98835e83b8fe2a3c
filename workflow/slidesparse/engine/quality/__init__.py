"""The quality stage: how well a checkpoint predicts a text, and how far its predictions are from a reference's."""
