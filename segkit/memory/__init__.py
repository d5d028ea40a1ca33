"""Streaming memory of SAM 2: attention to earlier frames, their encoding, and a bounded bank."""

from segkit.memory.bank import Capacity, Memory, MemoryBank, ObjectMemory
from segkit.memory.modules import MemorySizes, Sam2Memory

__all__ = ["Capacity", "Memory", "MemoryBank", "MemorySizes", "ObjectMemory", "Sam2Memory"]
