"""The largest shares of a training's load that count as undisturbed.

5 %: ranks that fill their cores lose about as much time, which is as large as differences between seeds. A quarter of a
node: its memory's bandwidth and its clock rate are shared, also where the ranks have cores of their own.
"""

MOST_FOREIGN = 0.05
MOST_FOREIGN_OF_NODE = 0.25
MOST_THROTTLED = 0.05
