"""What peers get of glibc's malloc, as generated programs set it for themselves."""

KEEP_FREED = {"MALLOC_MMAP_THRESHOLD_": str(2**31 - 1), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""Environment: freed blocks are kept. Else the kernel clears each page of a step's activations again."""
