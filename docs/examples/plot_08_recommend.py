"""
Which strategy, and why
=======================

``recommend_strategy`` measures how many labels there are, how similar the samples are to what the
network was trained on, and which layers are informative. It names one strategy, with its reasons
and the estimated time of each.
"""

# %%
from sklearn.datasets import load_digits

from sktransfer import recommend_strategy

digits = load_digits()
X, y = list(digits.images[:150] / 16), digits.target[:150]
recommendation = recommend_strategy(X, y, image_size=64, max_epochs=3, random_state=0)
print(recommendation)

# %%
# The expected gain of each strategy over fixed features of the penultimate layer. Direct use, which
# is far worse, is outside of the frame.
from matplotlib import pyplot as plt

display = recommendation.plot()
display.ax_.set_xlim(-0.08, 0.12)
plt.show()
