"""What a study will be able to tell, before it is trained: how wide the intervals of N*, of the model exponent and of
L* at a target will be; the cheapest study of a wanted width; and the next runs of a study that has some."""
