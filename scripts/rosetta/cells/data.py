"""Data

A data set in memory is any pytree of arrays with one example a row: no class, no workers. Shuffling and batches are row
numbers, so whole epochs run inside a compiled program. `data.stream` reads what does not fit in memory.
"""


# %% torch.utils.data.Dataset
class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(labels)

    def __getitem__(self, i):
        return {"x": x[i], "label": labels[i]}


len(Rows()), Rows()[1]
# %% jax
# The arrays are the data set.
rows = {"x": x, "label": labels}
data.arrays.length(rows), data.take(rows, 1)

# %% torch.utils.data.DataLoader
loader = torch.utils.data.DataLoader(x, batch_size=2)
[batch for batch in loader]
# %% jax
# The last short batch is kept, as by torch's default; `key=` shuffles. `train.fit` and `train.run` do all this
# themselves.
plan = data.batch_plan(len(x), 2)
[data.take(x, rows) for rows in plan.steps()]

# %% torchvision.datasets.CIFAR10
rows = datasets.CIFAR10(".", train=True)
torch.from_numpy(rows.data), torch.tensor(rows.targets)
# %% jax
# Read without unpickling what the files may hold. `data.load("cifar10")` fetches them first, by checksum.
train_set, test_set = data.cifar.read("cifar-10-batches-py")
train_set["image"], train_set["label"]

# %% torchvision.datasets.MNIST
rows = datasets.MNIST(".", train=True)
rows.data, rows.targets
# %% jax
# `data.load("mnist")` fetches the files too. Grey pictures have a channel axis here as well.
train_set = data.idx.read_pair(
    "MNIST/raw/train-images-idx3-ubyte",
    "MNIST/raw/train-labels-idx1-ubyte",
)
train_set["image"][..., 0], train_set["label"]

# %% torchvision.transforms.ToTensor | channels last
transforms.ToTensor()(Image.open("dog.png"))
# %% jax
# Both divide by 255; torch turns H W C to C H W as well.
data.image.to_float(data.image.read("dog.png"))

# %% torchvision.transforms.Resize
photo = Image.open("dog.png")  # 48 x 64
np.asarray(transforms.Resize(24)(photo))
# %% jax
# Both sides are given, where torch's one number is the shorter one; both average where they shrink, as Pillow does.
photo = data.image.read("dog.png")  # [48 64 3]
data.image.resize(photo, (24, 32))

# %% torchvision.transforms.CenterCrop
photo = Image.open("dog.png")
np.asarray(transforms.CenterCrop(24)(photo))
# %% jax
# A crop of an array is a slice.
photo = data.image.read("dog.png")
top, left = ((size - 24) // 2 for size in photo.shape[:2])
photo[top : top + 24, left : left + 24]

# %% torchvision.transforms.Normalize | channels last
photo = transforms.ToTensor()(Image.open("dog.png"))
transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.3))(
    photo
)
# %% jax
# `Scale.standard` measures both on the training images; `scale.undo` is the way back.
scale = data.Scale(
    np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.3])
)
data.image.normalize(data.image.read("dog.png"), scale)[0]

# %% torchvision.transforms.Compose | channels last
preprocess = transforms.Compose(
    [
        transforms.Resize((24, 32)),
        transforms.ToTensor(),
        transforms.Normalize(
            (0.4, 0.5, 0.6), (0.2, 0.3, 0.3)
        ),
    ]
)
preprocess(Image.open("dog.png"))
# %% jax
# Functions are composed by calling one with the result of the other.
scale = data.Scale(
    np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.3])
)


def preprocess(photo):
    small = data.image.resize(photo, (24, 32))
    return data.image.normalize(small, scale)[0]


preprocess(data.image.read("dog.png"))
