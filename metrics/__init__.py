"""Quality metrics for colorized images and videos, shared by training and evaluation."""
