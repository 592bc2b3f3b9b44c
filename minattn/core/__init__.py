"""The ground floor: softmax and merge, projection, shapes, masks, positions, caches, the reference. NumPy only."""
