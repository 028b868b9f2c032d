"""The tutorial's script, the peer of tutorial.py: its steps as published, its pictures from a
folder.

Only what keeps it from running is mended: ``num_classes`` is defined. It divides by 225, fits the
binariser again on the test labels and keeps all pictures as float16 arrays of 500 x 500, as the
tutorial does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from keras import layers, models, optimizers
from PIL import Image
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelBinarizer

root, epochs, test_share = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
images, labels = [], []
for path in sorted(root.glob("*/*.jpg")):
    images.append(np.array(Image.open(path).resize((500, 500))))
    labels.append(path.parent.name)
x = np.array(images, dtype=np.float16) / 225
x_train, x_test, y_train, y_test = train_test_split(
    x, np.array(labels), test_size=test_share, random_state=0
)
y_train = LabelBinarizer().fit_transform(y_train)
y_test = LabelBinarizer().fit_transform(y_test)
num_classes = y_train.shape[1]

model = models.Sequential()
model.add(layers.Input((500, 500, 3)))
for filters, pool in ((8, 3), (16, 2), (32, 2)):
    model.add(layers.Conv2D(filters, (3, 3), padding="same", activation="relu"))
    model.add(layers.MaxPooling2D((pool, pool)))
model.add(layers.Flatten())
model.add(layers.Dense(32, activation="relu"))
model.add(layers.Dense(num_classes, activation="softmax"))
model.compile(
    loss="categorical_crossentropy",
    optimizer=optimizers.Adam(learning_rate=0.0005),
    metrics=["accuracy"],
)
model.fit(
    x_train, y_train, validation_data=(x_test, y_test), epochs=epochs, batch_size=128, verbose=0
)
predicted = model.predict(x_test, verbose=0).argmax(axis=1)
accuracy = float((predicted == y_test.argmax(axis=1)).mean())
print(json.dumps({"parameters": model.count_params(), "accuracy": accuracy, "train": len(x_train)}))
