"Two classes of portraits, a 34-layer residual network, four epochs"
__version__ = "0.1.0"
