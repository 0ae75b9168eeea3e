"""The published eCPC controller, reproduced and then guarded."""
