"""Loop nests of the anchor ops over packed weights, as tensor expressions, and the packing itself.

They stand below both `passes` (which emit them) and `schedules` (which recognise them by the
annotations of their reduction block, `KernelNotes`).
"""
