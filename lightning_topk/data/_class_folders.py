"""Find images in one folder per class, below a folder for each split."""

import unicodedata
from abc import abstractmethod
from pathlib import Path

from lightning_topk.data._images import ImageFilesDataModule, Samples, images_below


class ClassFoldersDataModule(ImageFilesDataModule):
    """Base of the data modules whose images lie in one folder per class, below the folder of a source."""

    @property
    @abstractmethod
    def folders(self) -> dict[str, Path]:
        """Folder of each source, that of ``"train"`` first."""

    def read_names(self) -> list[str]:
        names = subfolders(self.folders["train"], self.layout)
        if not names:
            raise FileNotFoundError(f"{self.layout} Found no folder of a class in `{self.folders['train']}`.")
        for split, folder in self.folders.items():
            unknown = sorted(set(subfolders(folder, self.layout)) - set(names))
            if unknown:
                raise ValueError(
                    f"Classes of `{folder}` should be those of the training set. Found {', '.join(unknown[:10])} "
                    f"in the {split} set alone."
                )
        return names

    def folder_names(self) -> list[str]:
        """Return the name of the folder of each class."""
        return self.class_names

    def find_files(self) -> dict[str, Samples]:
        names = self.folder_names()
        return {split: images_below(folder, names, self.layout) for split, folder in self.folders.items()}

    def where(self, source: str) -> str:
        return f"in `{self.folders[source]}`"


def subfolders(folder: Path, law: str) -> list[str]:
    """Return the names of the folders in a folder, in alphabetical order, without hidden ones."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise type(error)(f"{law} `{folder}` cannot be read: {error.strerror}.") from error
    for name in names:
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise ValueError(
                "The folder of a class should have a name in UTF-8 without control characters, as reports hold it. "
                f"Found {name!a} in `{folder}`."
            )
    return names
