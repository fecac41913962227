"""Cubins of turnout-cuda's kernels, an archive per architecture; `turnout_cuda.cubins` reads them."""
