"""The pipeline from videos to scored models: saliency, crops around it, and fusion models trained from both."""
