"""AlexNet in one column (Krizhevsky 2014, One weird trick, arXiv 1404.5997, after Krizhevsky et al. 2012)."""

from .. import nn
from .catalogue import network


class AlexNet(nn.Module):
    """(N, 3, H, W), H and W at least 63, to (N, num_classes)."""

    def __init__(self, num_classes=1000, dropout=0.5):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(nn.functional.flatten(x, 1))


@network("Krizhevsky 2014, arXiv 1404.5997", 61_100_840, 714_188_480)
def alexnet(num_classes=1000, dropout=0.5):
    """AlexNet; see `AlexNet`."""
    return AlexNet(num_classes, dropout)
