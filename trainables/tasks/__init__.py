"""What a data set asks of a network: one class of an image, or each class by itself."""
