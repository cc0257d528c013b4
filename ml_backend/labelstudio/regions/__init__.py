"""Masks as Label Studio regions and back: polygon, brush RLE, bitmask PNG, rectangle. No torch, no HTTP."""
