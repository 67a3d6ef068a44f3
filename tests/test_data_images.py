"""Images from every kind of file: what is whole comes back as written, what is not is NaN, named, and costs nothing else."""

from __future__ import annotations

import gzip
import io
import os

import numpy as np
import pytest

from astroad_jax import data
from astroad_jax.app.scoring import _stamp
from astroad_jax.config import Data
from astroad_jax.data import jpeg, open_source, source
from astroad_jax.data.images import decode
from astroad_jax.data.source import TEXT, Column
from astroad_jax.errors import DataError
from experiments import common
from tests.data_files import cut
from tests.image_files import cutout, encode, pack, picture, write_folder

F32 = np.dtype(np.float32)
NAN = np.nan


def whole(opened, rows=1 << 16, columns=None):
    chunks = list(opened.chunks(rows=rows, columns=columns))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def table_of(path, **options):
    opened = open_source(path)
    return data.read_table(opened, data.find_roles(opened, Data(**options)))


def lost(images):
    """Which images are NaN throughout; none is in part."""
    nan = np.isnan(images).reshape(len(images), -1)
    np.testing.assert_array_equal(nan.all(1), nan.any(1))
    return nan.all(1).tolist()


BROKEN = {
    "cut": encode(picture(1))[:-200],
    "of another kind": b"<html>404 not found</html>",
    "empty": b"",
    "of another size": encode(picture(1, 9, 8)),
    "of one band": encode(picture(1, bands=1)),
}


class TestJpegBytes:
    """``jpeg`` and ``offsets`` in an NPZ."""

    def save(self, tmp_path, **arrays):
        np.savez(tmp_path / "sky.npz", **arrays)
        return tmp_path / "sky.npz"

    @pytest.mark.parametrize("rows", [1, 4, 100])
    def test_images_and_what_goes_with_them(self, tmp_path, rows):
        images = [picture(i) for i in range(10)]
        extra = {"ids": np.arange(10) + 2**53 + 1, "y": np.arange(10) % 2, "class_names": np.array(["a", "b"])}
        opened = open_source(self.save(tmp_path, **pack([encode(image) for image in images]), **extra))
        assert opened.columns == {
            "image": Column(F32, (8, 8, 3)), "object_id": Column(np.dtype(np.int64), ()), "label": Column(np.dtype(int), ()),
        }  # fmt: skip
        found = whole(opened, rows)
        assert np.abs(found["image"] - np.stack(images)).max() < 6
        assert found["object_id"].tolist() == extra["ids"].tolist()
        roles = data.find_roles(opened, Data())
        assert (roles.id, roles.label, roles.features) == ("object_id", "label", ("image",))

    def test_parts_follow_one_another(self, tmp_path):
        train, test = ([encode(picture(i)) for i in numbers] for numbers in (range(4), range(4, 7)))
        arrays = {**pack(train, "_train"), **pack(test, "_test"), "y_train": np.arange(4), "y_test": np.arange(4, 7)}
        opened = open_source(self.save(tmp_path, **arrays))
        assert opened.num_rows == 7
        found = whole(opened, 3)
        assert found["split"].tolist() == ["train"] * 4 + ["test"] * 3
        assert found["label"].tolist() == list(range(7))
        np.testing.assert_array_equal(found["image"], np.stack([decode(raw) for raw in train + test]))

    @pytest.mark.parametrize("case", BROKEN)
    def test_one_that_cannot_be_used_is_nan_and_named_once(self, tmp_path, case, caplog):
        images = [encode(picture(i)) for i in range(5)]
        images[3] = BROKEN[case]
        opened = open_source(self.save(tmp_path, **pack(images)))
        for _ in range(2):
            assert lost(whole(opened, 2)["image"]) == [False, False, False, True, False]
        (line,) = caplog.messages
        assert "sky.npz" in line
        assert "3 of 'jpeg'" in line

    def test_the_first_readable_one_settles_the_shape(self, tmp_path):
        images = [b"", encode(picture(0)), encode(picture(1))]
        opened = open_source(self.save(tmp_path, **pack(images)))
        assert lost(whole(opened)["image"]) == [True, False, False]

    def test_an_odd_one_at_the_front_is_the_odd_one(self, tmp_path):
        images = [encode(picture(0)[:5]), b"", *(encode(picture(i)) for i in range(2))]
        opened = open_source(self.save(tmp_path, **pack(images)))
        assert lost(whole(opened)["image"]) == [True, True, False, False]

    def test_none_that_can_be_read(self, tmp_path):
        with pytest.raises(DataError, match="none of these images") as caught:
            open_source(self.save(tmp_path, **pack([b"", b"x", b"y" * 50])))
        assert "0 of 'jpeg'" in caught.value.got

    def test_one_image(self, tmp_path):
        assert whole(open_source(self.save(tmp_path, **pack([encode(picture())]))))["image"].shape == (1, 8, 8, 3)

    def test_no_image(self, tmp_path):
        with pytest.raises(DataError, match="this table is empty"):
            open_source(self.save(tmp_path, **pack([])))

    @pytest.mark.parametrize("offsets", [[0, 900, 500], [0, 10**9], [-5, 10], [0.0, 10.0], [[0, 10]], []])
    def test_offsets_that_cannot_be(self, tmp_path, offsets):
        held = pack([encode(picture(i)) for i in range(2)])
        with pytest.raises(DataError, match="offsets"):
            open_source(self.save(tmp_path, jpeg=held["jpeg"], offsets=np.array(offsets)))

    def test_bytes_before_and_after_the_images(self, tmp_path):
        held = pack([encode(picture(i)) for i in range(3)])
        padding = np.zeros(100, np.uint8)
        arrays = {"jpeg": np.concatenate([padding, held["jpeg"], padding]), "offsets": held["offsets"] + 100}
        assert lost(whole(open_source(self.save(tmp_path, **arrays)), 2)["image"]) == [False] * 3

    def test_a_flipped_bit_fails_the_archive(self, tmp_path):
        path = self.save(tmp_path, **pack([encode(picture(i)) for i in range(5)]))
        raw = bytearray(path.read_bytes())
        raw[2000] ^= 1
        path.write_bytes(bytes(raw))
        with pytest.raises(DataError, match="CRC"):
            whole(open_source(path))

    def test_an_experiment_takes_the_parts(self, tmp_path):
        train, test = ([encode(picture(i)) for i in numbers] for numbers in (range(4), range(4, 7)))
        arrays = {**pack(train, "_train"), **pack(test, "_test"), "y_train": np.arange(4), "y_test": np.arange(4, 7)}
        held = common.dataset("sky", self.save(tmp_path, **arrays).parent)
        np.testing.assert_array_equal(held.x, np.stack([decode(raw) for raw in train]))
        np.testing.assert_array_equal(held.x_test, np.stack([decode(raw) for raw in test]))
        assert (held.y.tolist(), held.y_test.tolist()) == ([0, 1, 2, 3], [4, 5, 6])
        self.save(tmp_path, **(arrays | pack([*test[:2], test[2][:-200]], "_test")))
        with pytest.raises(DataError, match="1 of 7"):
            common.dataset("sky", tmp_path)

    def test_only_what_is_asked_for_is_decoded(self, tmp_path, monkeypatch):
        opened = open_source(self.save(tmp_path, **pack([encode(picture(i)) for i in range(9)]), ids=np.arange(9)))
        monkeypatch.setattr(jpeg, "decode", lambda raw: pytest.fail("decoded"))
        assert whole(opened, 2, ["object_id"])["object_id"].tolist() == list(range(9))

    def test_bytes_without_offsets_are_a_column(self, tmp_path):
        opened = open_source(self.save(tmp_path, jpeg=np.zeros(5, np.uint8), z=np.zeros(5)))
        assert list(opened.columns) == ["jpeg", "z"]


class TestHdf5:
    def write(self, tmp_path, **arrays):
        import h5py

        with h5py.File(tmp_path / "galaxies.h5", "w") as file:
            for name, values in arrays.items():
                file[name] = values
        return tmp_path / "galaxies.h5"

    def test_galaxy10(self, tmp_path):
        images = np.stack([picture(i, 16, 16) for i in range(6)])
        columns = {name: np.linspace(0, 1, 6) for name in ("ra", "dec", "redshift", "pxscale")}
        path = self.write(tmp_path, images=images, ans=np.arange(6, dtype=np.uint8) % 3, **columns)
        opened = open_source(path)
        roles = data.find_roles(opened, Data())
        assert roles[:5] == ("", "ra", "dec", "ans", ("images",))
        assert set(data.left_out(opened, roles)) == {"redshift", "pxscale"}
        table = data.read_table(opened, roles)
        np.testing.assert_array_equal(table.x, images)
        assert table.label.tolist() == ["0", "1", "2"] * 2

    def test_without_images_it_says_what_was_expected(self, tmp_path):
        opened = open_source(self.write(tmp_path, ans=np.arange(4), ra=np.zeros(4), dec=np.zeros(4), pictures=["a"] * 4))
        with pytest.raises(DataError, match="no feature") as caught:
            data.find_roles(opened, Data())
        assert "images" in caught.value.expected
        assert "pictures" in caught.value.got


MODES = {
    "grey": (lambda image: image.convert("L"), (8, 8, 1)),
    "bilevel": (lambda image: image.convert("1"), (8, 8, 1)),
    "palette": (lambda image: image.convert("P"), (8, 8, 3)),
    "alpha": (lambda image: image.convert("RGBA"), (8, 8, 4)),
    "colour": (lambda image: image, (8, 8, 3)),
}


class TestDecode:
    @pytest.mark.parametrize("kind", ["png", "tiff"])
    @pytest.mark.parametrize("mode", MODES)
    def test_modes(self, kind, mode):
        from PIL import Image

        change, shape = MODES[mode]
        stream = io.BytesIO()
        change(Image.fromarray(picture())).save(stream, kind)
        pixels = decode(stream.getvalue())
        assert pixels.shape == shape
        if mode in ("colour", "alpha"):
            np.testing.assert_array_equal(pixels[..., :3], picture())
        if mode == "palette":
            assert np.abs(pixels.astype(int) - picture()).max() < 60

    @pytest.mark.parametrize("dtype", [np.uint16, np.float32])
    def test_deep_tiff(self, dtype):
        image = (np.arange(64).reshape(8, 8, 1) * 1000).astype(dtype)
        np.testing.assert_array_equal(decode(encode(image, "tiff")), image)

    def test_inks_become_colours(self):
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(picture()).convert("CMYK").save(stream, "jpeg")
        assert decode(stream.getvalue()).shape == (8, 8, 3)

    def test_pages(self):
        from PIL import Image

        stream, page = io.BytesIO(), Image.fromarray(picture())
        page.save(stream, "tiff", save_all=True, append_images=[page])
        with pytest.raises(ValueError, match="2 pages"):
            decode(stream.getvalue())

    def test_other_formats_are_refused(self):
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(picture()).save(stream, "gif")
        with pytest.raises(OSError, match="cannot identify"):
            decode(stream.getvalue())


class TestFolders:
    def test_flat(self, tmp_path):
        kinds = {"a.png": "png", "b.TIF": "tiff", "c.jpeg": "jpeg", "d.JPG": "jpeg", "e.tiff": "tiff"}
        files = {name: encode(picture(i), kind) for i, (name, kind) in enumerate(kinds.items())}
        path = write_folder(tmp_path / "my sky", {**files, "readme.txt": b"hello", ".a.png": b"hidden"})
        opened = open_source(path)
        assert (opened.format, opened.num_rows, opened.name) == ("folder", 5, "my_sky")
        assert opened.name == data.partition_of(path) == data.partition_of(f"{path}/")
        assert opened.columns == {"object_id": Column(TEXT, ()), "image": Column(F32, (8, 8, 3))}
        found = whole(opened, 2)
        assert found["object_id"].tolist() == sorted(kinds)
        for i in (0, 1, 4):
            np.testing.assert_array_equal(found["image"][i], picture(i))

    def test_classes(self, tmp_path):
        names = [f"{kind}/{i}.png" for kind in ("merger", "ring") for i in range(3)]
        write_folder(tmp_path, {name: encode(picture(i), "png") for i, name in enumerate(names)})
        table = table_of(tmp_path)
        assert table.ids.tolist() == names
        assert table.label.tolist() == ["merger"] * 3 + ["ring"] * 3
        assert table.x.shape == (6, 8, 8, 3)

    def test_linked_classes_are_followed(self, tmp_path):
        write_folder(tmp_path / "real", {"a.png": encode(picture(), "png")})
        (tmp_path / "sky").mkdir()
        (tmp_path / "sky" / "ring").symlink_to(tmp_path / "real")
        (tmp_path / "sky" / "loop").symlink_to(tmp_path / "sky")
        assert data.files_below(tmp_path / "sky")[-1] == os.path.join("ring", "a.png")

    @pytest.mark.parametrize("case", BROKEN)
    def test_one_that_cannot_be_used_is_nan_and_named_once(self, tmp_path, case, caplog):
        write_folder(tmp_path, {**{f"{i}.jpg": encode(picture(i)) for i in range(3)}, "1.jpg": BROKEN[case]})
        opened = open_source(tmp_path)
        for _ in range(2):
            assert lost(whole(opened, 2)["image"]) == [False, True, False]
        (line,) = caplog.messages
        assert "1.jpg" in line

    @pytest.mark.parametrize("kind", ["png", "fits"])
    def test_a_link_to_nothing_is_one_that_cannot_be_used(self, tmp_path, caplog, kind):
        write_folder(tmp_path, {f"a.{kind}": encode(picture(), "png") if kind == "png" else cutout(planes())})
        (tmp_path / f"b.{kind}").symlink_to(tmp_path / "gone")
        assert lost(whole(open_source(tmp_path))["image"]) == [False, True]
        assert "link" in caplog.text
        assert _stamp(str(tmp_path))

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ({}, "0 files, no image"),
            ({"a.txt": b"x", "b.csv": b"y"}, "2 files, no image"),
            ({"a.png": b"x", "ring/b.png": b"y"}, "different depths"),
            ({"x/y/a.png": b"x"}, "too deep"),
            ({"ring/a.png": b"x", "ring/more/b.png": b"y"}, "different depths"),
            ({"a.png": b"x", "a.fits": b"y"}, "pictures and FITS files"),
            ({"a.png": b"x", "b.jpg": b""}, "a.png: UnidentifiedImageError"),
        ],
    )
    def test_what_is_no_set_of_images(self, tmp_path, files, words):
        with pytest.raises(DataError, match=words):
            open_source(write_folder(tmp_path, files))

    def test_names_that_are_no_text(self, tmp_path):
        with open(os.path.join(os.fsencode(tmp_path), b"\xff.png"), "wb") as file:
            file.write(encode(picture(), "png"))
        with pytest.raises(DataError, match="UTF-8"):
            open_source(tmp_path)

    def test_one_image(self, tmp_path):
        assert table_of(write_folder(tmp_path, {"a.png": encode(picture(), "png")})).x.shape == (1, 8, 8, 3)

    def test_a_file_that_vanishes(self, tmp_path):
        opened = open_source(write_folder(tmp_path, {f"{i}.png": encode(picture(i), "png") for i in range(3)}))
        (tmp_path / "1.png").unlink()
        with pytest.raises(DataError, match=r"changed since.*\n.*\n.*1\.png is gone"):
            whole(opened)

    @pytest.mark.parametrize("size", [2, 4, 8, 12])
    def test_sizes(self, tmp_path, size):
        images = [picture(0), picture(1, 12, 12), picture(2, 4, 4)]
        write_folder(tmp_path, {f"{i}.png": encode(image, "png") for i, image in enumerate(images)})
        found = whole(open_source(tmp_path, size=size))["image"]
        assert found.shape == (3, size, size, 3)
        for made, image in zip(found, images):
            np.testing.assert_allclose(made.mean((0, 1)), image.mean((0, 1)), rtol=0.02)
            if len(image) % size == 0:
                step = len(image) // size
                expected = image.reshape(size, step, size, step, 3).mean((1, 3))
                np.testing.assert_allclose(made, expected, rtol=1e-6)

    def test_growing_is_bicubic(self, tmp_path):
        """Inside, Keys' kernel follows any parabola exactly."""
        y, x = np.mgrid[:12, :12].astype(np.float32)
        surface = (0.5 * x**2 + 0.25 * y**2 + x * y).astype(np.float32)[..., None]
        found = whole(open_source(write_folder(tmp_path, {"a.tif": encode(surface, "tiff")}), size=24))["image"][0, ..., 0]
        v, u = (np.mgrid[:24, :24] + 0.5) / 2 - 0.5
        inside = (slice(4, -4), slice(4, -4))
        np.testing.assert_allclose(found[inside], (0.5 * u**2 + 0.25 * v**2 + u * v)[inside], rtol=1e-4)

    def test_an_oblong_cannot_be_resized(self, tmp_path, caplog):
        write_folder(tmp_path, {"a.png": encode(picture(), "png"), "b.png": encode(picture(0, 8, 6), "png")})
        assert lost(whole(open_source(tmp_path, size=4))["image"]) == [False, True]
        assert "square" in caplog.text

    def test_a_size_is_for_directories(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.zeros((4, 8, 8, 3)))
        with pytest.raises(DataError, match="preprocess.size"):
            open_source(tmp_path / "a.npz", size=4)

    @pytest.mark.parametrize("format", ["parquet", "folder"])
    def test_format_and_kind_must_agree(self, tmp_path, format):
        path = tmp_path / "a.parquet"
        path.write_bytes(b"x") if format == "folder" else path.mkdir()
        with pytest.raises(DataError, match="this is a"):
            open_source(path, format=format)

    def test_stamp_changes_with_any_file(self, tmp_path):
        write_folder(tmp_path, {f"{i}.png": encode(picture(i), "png") for i in range(3)})
        stamps = [_stamp(str(tmp_path))]
        assert stamps == [_stamp(str(tmp_path))]
        assert stamps[0].startswith("3 files ")
        (tmp_path / "1.png").write_bytes(encode(picture(9), "png"))
        stamps.append(_stamp(str(tmp_path)))
        (tmp_path / "2.png").rename(tmp_path / "3.png")
        stamps.append(_stamp(str(tmp_path)))
        (tmp_path / "3.png").unlink()
        stamps.append(_stamp(str(tmp_path)))
        assert len(set(stamps)) == 4


def planes(seed=0, bands=3, dtype=">f4", height=6, width=5):
    return np.random.default_rng(seed).normal(10, 3, (bands, height, width)).astype(dtype)


def with_companions():
    from astropy.io import fits

    hdus = [fits.PrimaryHDU(), fits.ImageHDU(planes(0, 1)[0], name="SCI"), fits.ImageHDU(planes(1, 1)[0], name="ERR")]
    stream = io.BytesIO()
    fits.HDUList([*hdus, fits.ImageHDU(planes(1, 1)[0].astype(">i2"), name="DQ")]).writeto(stream)
    return stream.getvalue()


def with_names(names: str, held: np.ndarray, key: str = "EXTNAME") -> bytes:
    """FITS file with an HDU a band, whose header has a name under `key`."""
    from astropy.io import fits

    stream = io.BytesIO()
    hdus = [fits.ImageHDU(plane, header=fits.Header({key: name})) for name, plane in zip(names, held)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(stream)
    return stream.getvalue()


class TestFitsFolders:
    @pytest.mark.parametrize("layout", ["cube", "extensions", "compressed", "plane"])
    @pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", "u1", ">u2"])
    def test_layouts_and_types(self, tmp_path, layout, dtype):
        bands = 1 if layout == "plane" else 3
        held = [planes(i, bands, dtype) for i in range(3)]
        write_folder(tmp_path, {f"{i}.fits": cutout(image, layout) for i, image in enumerate(held)})
        table = table_of(tmp_path)
        assert table.x.dtype.isnative
        np.testing.assert_array_equal(table.x, np.stack([image.transpose(1, 2, 0) for image in held]).astype(np.float32))
        assert table.ids.tolist() == ["0.fits", "1.fits", "2.fits"]

    def test_gzip_and_classes(self, tmp_path):
        files = {"ring/a.fits.gz": gzip.compress(cutout(planes(0))), "odd/b.fit": cutout(planes(1))}
        table = table_of(write_folder(tmp_path, files))
        assert table.label.tolist() == ["odd", "ring"]
        np.testing.assert_array_equal(table.x[1], planes(0).transpose(1, 2, 0))

    def test_companions_are_no_bands(self, tmp_path):
        table = table_of(write_folder(tmp_path, {"a.fits": with_companions()}))
        np.testing.assert_array_equal(table.x[0, ..., 0], planes(0, 1)[0])

    @pytest.mark.parametrize("key", ["EXTNAME", "FILTER"])
    def test_bands_go_by_their_names(self, tmp_path, key, caplog):
        """One file with its bands in another order, one with another band, one that does not name them."""
        files = {f"{i}.fits": with_names("grz", planes(i), key) for i in range(4)}
        files |= {"4.fits": with_names("zgr", planes(4)[[2, 0, 1]], key), "5.fits": with_names("gri", planes(5), key)}
        files |= {"6.fits": cutout(planes(6))}
        found = whole(open_source(write_folder(tmp_path, files)))["image"]
        assert lost(found) == [False] * 5 + [True, False]
        for i in (0, 4, 6):
            np.testing.assert_array_equal(found[i], planes(i).transpose(1, 2, 0))
        (line,) = caplog.messages
        assert "5.fits" in line
        assert "expected G, R, Z, got G, R, I" in line

    @pytest.mark.parametrize("names", [("ab", "cd", "ef"), ("aa", "aa", "aa"), ("ab", "ba", "ba", "ab")])
    def test_names_that_are_no_bands_are_left_alone(self, tmp_path, names):
        write_folder(tmp_path, {f"{i}.fits": with_names(name, planes(i, 2)) for i, name in enumerate(names)})
        found = whole(open_source(tmp_path))["image"]
        np.testing.assert_array_equal(found, np.stack([planes(i, 2).transpose(1, 2, 0) for i in range(len(names))]))

    def test_a_degenerate_fourth_axis_goes(self, tmp_path):
        table = table_of(write_folder(tmp_path, {"a.fits": cutout(planes(0, 1)[None])}))
        assert table.x.shape == (1, 6, 5, 1)

    @pytest.mark.parametrize(
        ("dtype", "blank", "scale", "zero"),
        [(">i2", -99, 0.5, 3.0), (">i2", 0, 1, 0), (">i4", 7, 1, 0), ("u1", 255, 2.0, 0), (">i2", 5, 1, 2**15)],
    )
    def test_blank_and_scale(self, tmp_path, dtype, blank, scale, zero):
        """Of stored integers, BLANK is compared before BSCALE and BZERO apply; 0 and unsigned ones count as well."""
        from astropy.io import fits

        stored = np.arange(30).reshape(6, 5).astype(dtype)
        stored[2, 3] = blank
        path = tmp_path / "a.fits"
        fits.PrimaryHDU(stored).writeto(path)
        for key, value in {"BSCALE": scale, "BZERO": zero, "BLANK": blank}.items():
            if (key, value) not in (("BSCALE", 1), ("BZERO", 0)):
                fits.setval(path, key, value=value)
        expected = np.where(stored == blank, NAN, stored.astype(np.float64) * scale + zero)
        np.testing.assert_array_equal(table_of(tmp_path).x[0, ..., 0], expected.astype(np.float32))

    def test_nan_inf_and_what_float32_cannot_hold(self, tmp_path):
        image = planes(0, 1, ">f8")
        image[0, 0, :3] = NAN, np.inf, 1e300
        found = table_of(write_folder(tmp_path, {"a.fits": cutout(image)})).x[0, 0, :3, 0]
        np.testing.assert_array_equal(found, np.float32([NAN, np.inf, np.inf]))

    @pytest.mark.parametrize(
        ("keys", "ids"), [({"OBJID": [7, 8, 9]}, "789"), ({"HIERARCH OBJECT_ID": ["a", "b", "c"]}, "abc")]
    )
    def test_headers_name_objects_and_places(self, tmp_path, keys, ids):
        (key, values), = keys.items()  # fmt: skip
        files = {f"{i}.fits": cutout(planes(i), primary={key: v}, RA=10.0 + i, DEC=-5) for i, v in enumerate(values)}
        table = table_of(write_folder(tmp_path, files))
        assert table.ids.tolist() == list(ids)
        assert table.ra.tolist() == [10.0, 11.0, 12.0]
        assert table.dec.tolist() == [-5.0] * 3

    @pytest.mark.parametrize("last", [{}, {"OBJID": "", "RA": "10:00:00", "DEC": "+1:00"}])
    def test_what_one_header_lacks_none_has(self, tmp_path, last):
        files = {f"{i}.fits": cutout(planes(i), OBJID=i, RA_TARG=1.0, DEC_TARG=2.0) for i in range(2)}
        table = table_of(write_folder(tmp_path, {**files, "2.fits": cutout(planes(2), **last)}))
        assert table.ids.tolist() == ["0.fits", "1.fits", "2.fits"]
        assert table.ra is None

    BAD = {
        "cut": cutout(planes(1, height=40, width=40))[:-6000],
        "cut in the header": cutout(planes(1))[:1000],
        "an HTML page": b"<html><body>404 not found</body></html>\n",
        "empty": b"",
        "of another shape": cutout(planes(1, height=7)),
        "of fewer bands": cutout(planes(1, bands=2)),
        "of many objects": cutout(np.zeros((2, 3, 6, 5), ">f4")),
        "without an image": cutout(planes(1), "extensions")[:2880],
    }

    @pytest.mark.parametrize("case", BAD)
    def test_one_that_cannot_be_used_is_nan_and_named_once(self, tmp_path, case, caplog):
        files = {f"{i}.fits": cutout(planes(i), OBJID=i, RA=1.0, DEC=2.0) for i in range(3)}
        opened = open_source(write_folder(tmp_path, {**files, "1.fits": self.BAD[case]}))
        for _ in range(2):
            found = whole(opened)
            assert lost(found["image"]) == [False, True, False]
        (line,) = caplog.messages
        assert "1.fits" in line
        assert found["object_id"][1] == "1.fits" or case.startswith(("of", "without", "cut"))

    def test_a_failed_checksum(self, tmp_path, caplog):
        raw = bytearray(cutout(planes(1)))
        raw[2880 + 50] ^= 1
        write_folder(tmp_path, {"0.fits": cutout(planes(0)), "1.fits": bytes(raw)})
        assert lost(whole(open_source(tmp_path))["image"]) == [False, True]
        assert "checksum" in caplog.text

    def test_a_cut_gzip(self, tmp_path):
        raw = gzip.compress(cutout(planes(1)))
        write_folder(tmp_path, {"0.fits.gz": gzip.compress(cutout(planes(0))), "1.fits.gz": raw[: len(raw) // 2]})
        assert lost(whole(open_source(tmp_path))["image"]) == [False, True]

    def test_none_that_can_be_read(self, tmp_path):
        with pytest.raises(DataError, match="none of these images"):
            open_source(write_folder(tmp_path, {"a.fits": b"x" * 3000, "b.fits": b""}))

    def test_resized_pixels_stay_missing(self, tmp_path):
        image = planes(0, 1, height=8, width=8)
        image[0, 1, 1], image[0, 6, 7] = NAN, -np.inf
        found = whole(open_source(write_folder(tmp_path, {"a.fits": cutout(image)}), size=4))["image"][0, ..., 0]
        assert np.isnan(found[0, 0])
        assert np.isinf(found[3, 3])
        assert np.isfinite(found).sum() == 14
        np.testing.assert_allclose(found[1, 1], image[0, 2:4, 2:4].mean(), rtol=1e-6)


class TestFitsCubes:
    def write(self, path, cubes, columns=None, **header):
        from astropy.io import fits
        from astropy.table import Table

        table = fits.table_to_hdu(
            Table(columns or {"OBJID": np.arange(4) + 2**53 + 1, "RA": np.arange(4.0), "DEC": np.ones(4)})
        )
        hdus = [fits.ImageHDU(values, name=name) for name, values in cubes.items()]
        fits.HDUList([fits.PrimaryHDU(), *hdus, table]).writeto(path, checksum=True)
        return path

    @pytest.mark.parametrize("name", ["IMAGE", "SCI", "", "cutouts"])
    @pytest.mark.parametrize("shape", [(4, 6, 5), (4, 3, 6, 5), (4, 1, 6, 5)])
    def test_cube_and_table(self, tmp_path, name, shape):
        cube = np.random.default_rng(0).normal(size=shape).astype(">f4")
        opened = open_source(self.write(tmp_path / "sky.fits", {name: cube}))
        expected = cube.transpose(0, 2, 3, 1) if cube.ndim == 4 else cube[..., None]
        assert opened.columns["image"] == Column(F32, expected.shape[1:])
        np.testing.assert_array_equal(whole(opened, 3)["image"], expected)
        roles = data.find_roles(opened, Data())
        assert roles[:5] == ("OBJID", "RA", "DEC", "", ("image",))
        assert data.read_table(opened, roles).ids[0] == 2**53 + 1

    def test_primary_and_gzip(self, tmp_path):
        from astropy.io import fits
        from astropy.table import Table

        cube, path = np.arange(120, dtype=">i4").reshape(4, 6, 5), tmp_path / "sky.fits.gz"
        fits.HDUList([fits.PrimaryHDU(cube), fits.table_to_hdu(Table({"z": np.arange(4.0)}))]).writeto(path)
        np.testing.assert_array_equal(table_of(path).x[..., 0], cube)

    def test_integers_scaled_and_blank(self, tmp_path):
        from astropy.io import fits

        path = self.write(tmp_path / "sky.fits", {"IMAGE": np.arange(120, dtype=">i2").reshape(4, 6, 5)})
        for key, value in {"BSCALE": 0.5, "BZERO": 1.0, "BLANK": 0}.items():
            fits.setval(path, key, value=value, ext=1)
        with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
            del hdus[1].header["CHECKSUM"], hdus[1].header["DATASUM"]
        found = whole(open_source(path), 3)["image"]
        assert np.isnan(found.ravel()[0])
        np.testing.assert_array_equal(found.ravel()[1:], np.arange(1, 120) * 0.5 + 1)

    def test_other_cubes_are_columns_of_their_own(self, tmp_path):
        cubes = {
            "IMAGE": np.zeros((4, 6, 5)),
            "WEIGHT": np.ones((4, 6, 5)),
            "PSF": np.ones((7, 7)),
            "GRID": np.ones((9, 2, 2)),
        }
        opened = open_source(self.write(tmp_path / "sky.fits", cubes))
        assert {name for name, column in opened.columns.items() if column.shape} == {"image", "WEIGHT"}
        assert data.find_roles(opened, Data(features=("WEIGHT",))).features == ("WEIGHT",)

    @pytest.mark.parametrize(
        ("cubes", "columns"),
        [
            ({"IMAGE": np.zeros((4, 6, 5)), "SCI": np.zeros((4, 6, 5))}, None),
            ({"IMAGE": np.zeros((4, 6, 5))}, {"image": np.arange(4)}),
        ],
    )
    def test_two_columns_of_one_name(self, tmp_path, cubes, columns):
        with pytest.raises(DataError, match="image HDU"):
            open_source(self.write(tmp_path / "sky.fits", cubes, columns))

    def test_cut(self, tmp_path):
        path = self.write(tmp_path / "sky.fits", {"IMAGE": np.zeros((4, 60, 50))})
        cut(path, 0.5)
        with pytest.raises(DataError, match="cut short"):
            open_source(path)

    def test_a_cube_alone_says_what_to_do(self, tmp_path):
        (tmp_path / "a.fits").write_bytes(cutout(planes()))
        with pytest.raises(DataError, match="no table") as caught:
            open_source(tmp_path / "a.fits")
        assert "directory" in caught.value.fix


class TestMemory:
    @pytest.mark.parametrize(("limit", "most"), [(1, 1), (4 * 8 * 8 * 3 * 4, 4), (2**30, 10)])
    def test_chunks_are_bounded_by_bytes(self, monkeypatch, limit, most):
        monkeypatch.setattr(source, "BYTES", limit)
        opened = data.memory("m", {"image": np.zeros((10, 8, 8, 3), np.uint8)})
        tables = list(data.stream_tables(opened, data.find_roles(opened, Data())))
        assert max(len(table.x) for table in tables) == most
        assert sum(len(table.x) for table in tables) == 10

    def test_no_more_than_asked_for(self):
        assert source.fitting_rows([Column(F32, ())], 7) == 7
        assert source.fitting_rows([Column(F32, (10**6, 10**6))]) == 1
        assert source.fitting_rows([Column(TEXT, ()), Column(F32, ())]) == source.ROWS


class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "rows", "first", "labelled"),
        [
            ("galaxies/labelled_64.npz", 6507, [2, 2, 0, 5, 6, 1], True),
            ("galaxies/unlabelled_64_jpeg.npz", 6308, [6, 6, 6, 5, 5, 5], False),
        ],
    )
    def test_galaxies(self, shared_data, name, rows, first, labelled):
        opened = open_source(shared_data / name)
        roles = data.find_roles(opened, Data())
        assert (opened.num_rows, roles.id != "", roles.label != "") == (rows, True, labelled)
        table = next(data.stream_tables(opened, roles, 50))
        assert table.x.shape == (50, 64, 64, 3)
        assert np.abs(table.x[0].ravel()[:6] - first).max() <= 2
        centre = table.x[:, 24:40, 24:40].mean((1, 2, 3))
        assert (centre > 2 * table.x[:, :8].mean((1, 2, 3))).mean() > 0.9  # a galaxy in the middle, dark sky at the edge
        assert np.isfinite(table.x).all()
