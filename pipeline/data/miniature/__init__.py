"""The generated data set: what happens in its videos, how they are drawn, and what is known about them beforehand."""
