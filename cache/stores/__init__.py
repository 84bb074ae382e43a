"""The stores of the products: arrays in Zarr, volumes of JPEG or PNG frames in HDF5, and their commit records."""
