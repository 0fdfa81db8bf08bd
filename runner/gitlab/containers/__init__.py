"""A job's `image:` and `services:`, in the Docker Engine of its sandbox.

`policy` says which images and under what names, `plan` decides everything that can be decided outside (pure), and
`inside` holds the programs that act on it in the sandbox.
"""
