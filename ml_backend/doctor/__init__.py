"""``int-backend doctor``: what stands between Label Studio, the images, the models and us, and the remedy of each."""
