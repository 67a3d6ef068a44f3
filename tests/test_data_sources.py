"""Every format gives back what was written, streams it in pieces, and names what is wrong with a bad file."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from astroad_jax.data import memory, open_source, partition_of
from astroad_jax.data.source import TEXT, UNREADABLE, Column, native, partition_name
from astroad_jax.errors import DataError
from tests.data_files import BIG, FORMATS, NUM_ROWS, cut, garble, sky, write

ARRAY_FORMATS = ("parquet", "fits", "fits.gz", "hdf5", "npz", "ecsv")


def whole(source, rows=1 << 16, columns=None):
    chunks = list(source.chunks(rows=rows, columns=columns))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


class TestRoundTrip:
    def test_values_and_types_survive(self, tmp_path, kind):
        columns = sky()
        source = open_source(write(tmp_path, kind, columns))
        assert source.name == partition_of(source.path)
        assert (source.name, source.num_rows, source.format) == ("sky", NUM_ROWS, kind.removesuffix(".gz"))
        assert list(source.columns) == list(columns) or kind == "hdf5"  # HDF5 keeps names sorted
        for name, values in whole(source).items():
            assert source.columns[name] == Column(TEXT if values.dtype.kind == "U" else values.dtype, ())
            np.testing.assert_array_equal(values, columns[name], err_msg=name)
            assert values.dtype.isnative

    def test_large_integer_ids_are_exact(self, tmp_path, kind):
        ids = whole(open_source(write(tmp_path, kind, sky())))["object_id"]
        assert ids.dtype == np.int64
        assert ids[0] == BIG

    def test_zero_padded_text_is_exact(self, tmp_path, kind):
        codes = whole(open_source(write(tmp_path, kind, sky())))["code"]
        assert codes.dtype.kind == "U"
        assert codes[7] == "000007"

    @pytest.mark.parametrize("rows", [1, 7, 20, 49, 50, 1000])
    def test_chunks_are_the_whole_in_order(self, tmp_path, kind, rows):
        columns = sky()
        source = open_source(write(tmp_path, kind, columns))
        chunks = list(source.chunks(rows=rows, columns=["period", "object_id"]))
        assert all(list(chunk) == ["period", "object_id"] for chunk in chunks)
        assert all(0 < len(chunk["period"]) <= rows for chunk in chunks)
        np.testing.assert_array_equal(np.concatenate([c["object_id"] for c in chunks]), columns["object_id"])

    def test_can_be_read_again(self, tmp_path, kind):
        source = open_source(write(tmp_path, kind, sky()))
        next(source.chunks(rows=3))
        first, second = whole(source), whole(source)
        np.testing.assert_array_equal(first["period"], second["period"])

    @pytest.mark.parametrize("shape", [(3,), (4, 2)])
    @pytest.mark.parametrize("kind", ARRAY_FORMATS)
    def test_array_columns(self, tmp_path, kind, shape):
        flux = np.arange(NUM_ROWS * np.prod(shape), dtype=np.float32).reshape(NUM_ROWS, *shape)
        source = open_source(write(tmp_path, kind, {"object_id": np.arange(NUM_ROWS), "flux": flux}))
        assert source.columns["flux"] == Column(np.dtype(np.float32), shape)
        np.testing.assert_array_equal(whole(source, rows=7)["flux"], flux)


class TestBadFiles:
    @pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
    def test_cut_file(self, tmp_path, kind, share):
        path = write(tmp_path, kind, sky(400))
        cut(path, share)
        with pytest.raises(DataError, match=path.name):
            whole(open_source(path))

    @pytest.mark.parametrize("seed", range(4))
    def test_garbled_file(self, tmp_path, kind, seed):
        path = write(tmp_path, kind, sky(400))
        garble(path, seed)
        with pytest.raises(DataError, match=path.name):
            whole(open_source(path))

    @pytest.mark.parametrize("content", [b"<html><body>404 not found</body></html>\n", b"\x00" * 5000, b"\xff"])
    def test_file_of_another_kind(self, tmp_path, kind, content):
        path = write(tmp_path, kind, sky())
        path.write_bytes(content)
        with pytest.raises(DataError, match=path.name):
            whole(open_source(path))

    def test_no_rows(self, tmp_path, kind):
        path = write(tmp_path, kind, sky())
        columns = {name: values[:0] for name, values in sky().items()}
        path.unlink()
        with pytest.raises(DataError, match="empty"):
            open_source(write(tmp_path, kind, columns))

    def test_zero_bytes(self, tmp_path, kind):
        path = write(tmp_path, kind, sky())
        path.write_bytes(b"")
        with pytest.raises(DataError, match="0 bytes"):
            open_source(path)

    def test_unknown_column(self, tmp_path, kind):
        source = open_source(write(tmp_path, kind, sky()))
        with pytest.raises(DataError, match="did you mean 'period'"):
            next(source.chunks(columns=["perid"]))


class TestOpening:
    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match="no such file"):
            open_source(tmp_path / "absent.parquet")

    def test_directory(self, tmp_path):
        (tmp_path / "a.parquet").mkdir()
        with pytest.raises(DataError, match="directory"):
            open_source(tmp_path / "a.parquet")

    @pytest.mark.parametrize("name", ["table.xls", "table"])
    def test_unknown_suffix_lists_the_known(self, tmp_path, name):
        with pytest.raises(DataError, match=r"\.parquet .*\.npz"):
            open_source(tmp_path / name)

    def test_unknown_format(self, tmp_path):
        with pytest.raises(DataError, match="did you mean 'parquet'"):
            open_source(tmp_path / "a.parquet", format="parket")

    def test_format_overrides_the_suffix(self, tmp_path):
        path = write(tmp_path, "csv", sky())
        path = path.rename(path.with_suffix(".dat"))
        assert open_source(path, format="csv").num_rows == NUM_ROWS

    @pytest.mark.parametrize(
        ("path", "suffix", "name"),
        [
            ("a/dr1.v2.parquet", ".parquet", "dr1.v2"),
            ("a/my sky.FITS", ".fits", "my_sky"),
            ("x/..csv", ".csv", "table"),
            ("x/a:b*c.npz", ".npz", "a_b_c"),
        ],
    )
    def test_partition_names(self, path, suffix, name):
        assert partition_name(path, suffix) == name

    def test_import_is_light(self):
        code = (
            "import sys, astroad_jax.data; "
            "heavy = {'tensorflow', 'jax', 'pyarrow', 'astropy', 'h5py', 'pydantic'}; "
            "print(sorted(heavy & set(sys.modules)))"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert out.stdout.strip() == "[]"


class TestMemory:
    def test_converts_as_from_a_file(self):
        masked = np.ma.array([1, 2, 3], mask=[False, True, False])
        arrays = {"a": np.array([1, 2, 3], ">i4"), "b": np.array([b"x", b"y", b"z"]), "c": masked}
        got = whole(memory("m", arrays))
        assert got["a"].dtype == np.int32
        assert got["b"].tolist() == ["x", "y", "z"]
        np.testing.assert_array_equal(got["c"], [1.0, np.nan, 3.0])

    def test_lengths_differ(self):
        with pytest.raises(DataError, match="different lengths"):
            memory("m", {"a": np.zeros(3), "b": np.zeros(4)})

    @pytest.mark.parametrize("dtype", [">f4", "<f8", ">i8", ">U3"])
    def test_native(self, dtype):
        values = np.array([1, 2, 3]).astype(dtype)
        assert native(values).dtype.isnative
        np.testing.assert_array_equal(native(values), values)


class TestParquet:
    def write(self, tmp_path, table, **options):
        import pyarrow.parquet as pq

        pq.write_table(table, tmp_path / "t.parquet", **options)
        return open_source(tmp_path / "t.parquet")

    @pytest.mark.parametrize("statistics", [True, False])
    def test_nullable_integers(self, tmp_path, statistics):
        import pyarrow as pa

        table = pa.table({"full": pa.array([BIG, 1, 2]), "gaps": pa.array([1, None, 3]), "flag": [True, None, False]})
        got = whole(self.write(tmp_path, table, write_statistics=statistics))
        assert got["full"].dtype == np.int64
        assert got["full"][0] == BIG
        np.testing.assert_array_equal(got["gaps"], [1.0, np.nan, 3.0])
        np.testing.assert_array_equal(got["flag"], [1.0, np.nan, 0.0])

    def test_arrow_types(self, tmp_path):
        import datetime
        import decimal

        import pyarrow as pa

        fixed = pa.array([[1.0, 2.0], None, [3.0, None]], pa.list_(pa.float32(), 2))
        nested = pa.array([[[1, 2]], [[3, 4]], [[5, 6]]], pa.list_(pa.list_(pa.int16())))
        table = pa.table(
            {
                "word": pa.array(["a", None, "b"]).dictionary_encode(),
                "money": pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("2.5")]),
                "fixed": fixed,
                "nested": nested,
                "unsigned": pa.array([2**64 - 1, 0, 1], pa.uint64()),
                "ragged": pa.array([[1.0], [1.0, 2.0], [3.0]]),
                "date": [datetime.datetime(2020, 1, 1)] * 3,
            }
        )
        source = self.write(tmp_path, table)
        assert source.columns["date"].dtype == UNREADABLE
        readable = [name for name in source.columns if name not in ("ragged", "date")]
        got = whole(source, columns=readable)
        assert got["word"].tolist() == ["a", "", "b"]
        np.testing.assert_array_equal(got["money"], [1.5, np.nan, 2.5])
        np.testing.assert_array_equal(got["fixed"], np.float32([[1, 2], [np.nan, np.nan], [3, np.nan]]))
        assert got["nested"].shape == (3, 1, 2)
        assert got["unsigned"][0] == 2**64 - 1
        with pytest.raises(DataError, match="differ in length"):
            whole(source, columns=["ragged"])
        with pytest.raises(DataError, match="date"):
            whole(source, columns=["date"])

    @pytest.mark.parametrize("compression", ["none", "zstd"])
    def test_every_flipped_data_byte_is_seen(self, tmp_path, compression):
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, x = tmp_path / "t.parquet", np.random.default_rng(0).normal(size=2000)
        pq.write_table(pa.table({"x": x}), path, write_page_checksum=True, compression=compression, use_dictionary=False)
        data = path.read_bytes()
        for position in range(1000, len(data) - 2000, 1500):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            with pytest.raises(DataError):
                whole(open_source(path))


class TestCsv:
    def open(self, tmp_path, text):
        path = tmp_path / "t.csv"
        path.write_text(text)
        return open_source(path)

    @pytest.mark.parametrize(
        ("header", "values", "dtype", "expected"),
        [
            ("n", ["1", "2", "3"], np.int64, [1, 2, 3]),
            ("n", ["1", "", "3"], np.float64, [1, np.nan, 3]),
            ("n", ["1", "2.5", "NaN"], np.float64, [1, 2.5, np.nan]),
            ("n", ["1", "2", "x"], TEXT, ["1", "2", "x"]),
            ("n", ["007", "8", "9"], TEXT, ["007", "8", "9"]),
            ("n", ["0", "-0.5", "007.5"], np.float64, [0, -0.5, 7.5]),
            ("n", ["", "", ""], np.float64, [np.nan] * 3),
            ("id", ["1", "2.5", "3"], TEXT, ["1", "2.5", "3"]),
            ("id", ["99999999999999999999", "1", "2"], TEXT, ["99999999999999999999", "1", "2"]),
            ("id", [str(BIG), "1", "2"], np.int64, [BIG, 1, 2]),
            ("class", ["NA", "nan", "x"], TEXT, ["NA", "nan", "x"]),
        ],
    )
    def test_types(self, tmp_path, header, values, dtype, expected):
        source = self.open(tmp_path, f"{header},z\n" + "".join(f"{v},0\n" for v in values))
        assert source.columns[header].dtype == dtype
        np.testing.assert_array_equal(whole(source)[header], expected)

    def test_a_late_value_decides(self, tmp_path, monkeypatch):
        monkeypatch.setattr("astroad_jax.data.text.BLOCK", 1 << 12)
        source = self.open(tmp_path, "a,b\n" + "1,2\n" * 5000 + "1,2.5\n")
        assert source.columns["b"].dtype == np.float64
        assert whole(source)["b"][-1] == 2.5

    @pytest.mark.parametrize("text", ["a,a\n1,2\n", "a,\n1,2\n", "a,b\n1\n", "a,b\n1,2,3\n"])
    def test_broken(self, tmp_path, text):
        with pytest.raises(DataError, match=r"t\.csv"):
            self.open(tmp_path, text)

    def test_gzip(self, tmp_path):
        import gzip

        path = tmp_path / "t.csv.gz"
        path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
        assert open_source(path).name == "t"
        path.write_bytes(path.read_bytes()[:-6])
        with pytest.raises(DataError, match=r"t\.csv\.gz"):
            whole(open_source(path))

    def test_ecsv_under_another_name(self, tmp_path):
        path = write(tmp_path, "ecsv", sky())
        source = open_source(path.rename(path.with_suffix(".csv")))
        assert (source.format, source.name) == ("ecsv", "sky")

    def test_ecsv_masks(self, tmp_path):
        from astropy.table import MaskedColumn, Table
        from astropy.time import Time

        mask = [False, True, False]
        table = Table(
            {
                "n": MaskedColumn([1, 2, 3], mask=mask),
                "s": MaskedColumn(["a", "b", "c"], mask=mask),
                "x": MaskedColumn([1.0, 2.0, 3.0], mask=mask),
                "t": Time([1.0, 2.0, 3.0], format="mjd"),
            }
        )
        table.write(tmp_path / "m.ecsv", format="ascii.ecsv")
        source = open_source(tmp_path / "m.ecsv")
        got = whole(source)
        np.testing.assert_array_equal(got["n"], [1, np.nan, 3])
        np.testing.assert_array_equal(got["x"], [1, np.nan, 3])
        assert got["s"].tolist() == ["a", "", "c"]


class TestFits:
    @pytest.mark.parametrize(("rest", "fine"), [(b"\0" * 2880, True), (b"XTENSION= 'IMAGE", False), (b" " * 80, False)])
    @pytest.mark.filterwarnings("ignore:Unexpected extra padding")
    def test_bytes_after_the_last_hdu(self, tmp_path, rest, fine):
        path = write(tmp_path, "fits", sky())
        path.write_bytes(path.read_bytes() + rest)
        if fine:
            assert open_source(path).num_rows == NUM_ROWS
        else:
            with pytest.raises(DataError, match="bytes after its last HDU"):
                open_source(path)

    def test_big_endian_scaled_null_unsigned_and_bool(self, tmp_path):
        from astropy.io import fits

        columns = [
            fits.Column("big", "D", array=np.array([1.5, 2.5, 3.5], ">f8")),
            fits.Column("null", "J", null=-99, array=np.array([1, -99, 3])),
            fits.Column("none", "K", null=-99, array=np.array([BIG, 2, 3])),
            fits.Column("unsigned", "K", bzero=2**63, array=np.array([2**64 - 1, 0, 1], np.uint64)),
            fits.Column("scaled", "I", array=np.array([1, 2, 3], np.int16)),
            fits.Column("flag", "L", array=np.array([True, False, True])),
            fits.Column("name", "6A", array=np.array(["ab  ", "cd", ""])),
            fits.Column("ragged", "PD()", array=np.array([[1.0], [1.0, 2.0], [3.0]], dtype=object)),
        ]
        fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
        fits.setval(tmp_path / "t.fits", "TSCAL5", value=0.1, ext=1)
        fits.setval(tmp_path / "t.fits", "TZERO5", value=2.0, ext=1)
        source = open_source(tmp_path / "t.fits")
        got = whole(source, rows=2)
        assert all(values.dtype.isnative for values in got.values())
        np.testing.assert_array_equal(got["big"], [1.5, 2.5, 3.5])
        np.testing.assert_array_equal(got["null"], [1, np.nan, 3])
        assert (got["none"].dtype, got["none"][0]) == (np.int64, BIG)
        assert (got["unsigned"].dtype, got["unsigned"][0]) == (np.uint64, 2**64 - 1)
        np.testing.assert_allclose(got["scaled"], [2.1, 2.2, 2.3])
        assert got["flag"].tolist() == [True, False, True]
        assert got["name"].tolist() == ["ab", "cd", ""]
        assert source.columns["ragged"].dtype == UNREADABLE

    def test_null_is_a_stored_value(self, tmp_path):
        """TNULL is compared before TSCAL and TZERO apply; of unsigned integers some writers give it after."""
        from astropy.io import fits

        columns = [
            fits.Column("scaled", "I", array=np.array([1, -9999, 3], np.int16)),
            fits.Column("stored", "I", bzero=2**15, array=np.array([1, 0, 3], np.uint16)),
            fits.Column("after", "I", bzero=2**15, array=np.array([1, 65535, 3], np.uint16)),
            fits.Column("ra", "D", unit="rad", array=np.array([0.1, 0.2, 0.3])),
        ]
        path = tmp_path / "t.fits"
        fits.BinTableHDU.from_columns(columns).writeto(path)
        for key, value in (("TSCAL1", 0.01), ("TNULL1", -9999), ("TNULL2", -(2**15)), ("TNULL3", 65535)):
            fits.setval(path, key, value=value, ext=1)
        source = open_source(path)
        got = whole(source, rows=2)
        np.testing.assert_allclose(got["scaled"], [0.01, np.nan, 0.03])
        np.testing.assert_array_equal(got["stored"], [1, np.nan, 3])
        np.testing.assert_array_equal(got["after"], [1, np.nan, 3])
        assert source.columns["ra"].unit == "rad"

    def test_flipped_bit_fails_the_checksum(self, tmp_path):
        path = write(tmp_path, "fits", sky())
        data = bytearray(path.read_bytes())
        data[-500] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(DataError, match="checksums"):
            open_source(path)

    def test_cut_names_hdu_and_bytes(self, tmp_path):
        path = write(tmp_path, "fits", sky(400))
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[: size - 5000])
        with pytest.raises(DataError) as caught:
            open_source(path)
        assert "HDU 1" in caught.value.where
        assert str(size) in caught.value.expected
        assert str(size - 5000) in caught.value.got

    def test_no_table(self, tmp_path):
        from astropy.io import fits

        fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image.fits")
        with pytest.raises(DataError, match="no table"):
            open_source(tmp_path / "image.fits")


def test_spectra_come_before_their_grid(tmp_path):
    """Where as many arrays have the grid's length as the table's, the one with more axes is the table."""
    np.savez(tmp_path / "s.npz", flux=np.zeros((100, 400), np.float32), wavelength=np.zeros(400))
    source = open_source(tmp_path / "s.npz")
    assert source.num_rows == 100
    assert list(source.columns) == ["flux"]


class TestHdf5:
    def test_groups_compounds_and_grids(self, tmp_path):
        import h5py

        rows = np.zeros(5, [("id", "i8"), ("tag", "S4"), ("v", ">f4", (2,))])
        rows["id"], rows["tag"] = np.arange(5), b"ab"
        with h5py.File(tmp_path / "t.h5", "w") as file:
            file["objects"] = rows
            file["spectra/flux"] = np.ones((5, 8), np.float32)
            file["a/z"], file["b/z"] = np.zeros(5), np.ones(5)
            file["wave"] = np.arange(8.0)
        source = open_source(tmp_path / "t.h5")
        assert set(source.columns) == {"id", "tag", "v", "flux", "a/z", "b/z"}
        got = whole(source, rows=2)
        assert got["v"].shape == (5, 2)
        assert got["tag"].tolist() == ["ab"] * 5
        assert got["b/z"].tolist() == [1.0] * 5

    def test_text_of_any_length(self, tmp_path):
        import h5py

        with h5py.File(tmp_path / "t.h5", "w") as file:
            file["name"] = ["α Ori", "", "a much longer name"]
        source = open_source(tmp_path / "t.h5")
        assert source.columns["name"] == Column(TEXT, ())
        assert whole(source, rows=2)["name"].tolist() == ["α Ori", "", "a much longer name"]

    def test_fletcher32_shows_a_flipped_bit(self, tmp_path):
        path = tmp_path / "t.h5"
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=np.full(3000, 1.25), fletcher32=True)
        data = bytearray(path.read_bytes())
        data[len(data) - 4000] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(DataError, match=r"t\.h5"):
            whole(open_source(path))


class TestNpz:
    def save(self, tmp_path, **arrays):
        np.savez(tmp_path / "t.npz", **arrays)
        return open_source(tmp_path / "t.npz")

    @pytest.mark.parametrize("key", ["x", "X"])
    def test_matrix(self, tmp_path, key):
        x = np.arange(12.0).reshape(4, 3)
        source = self.save(tmp_path, **{key: x}, y=np.arange(4), oid=np.array(["a", "b", "c", "d"]), z=np.ones(4))
        assert list(source.columns) == ["f0", "f1", "f2", "label", "object_id", "z"]
        np.testing.assert_array_equal(whole(source, rows=3)["f1"], x[:, 1])

    def test_feature_names(self, tmp_path):
        source = self.save(tmp_path, x=np.zeros((4, 2)), feature_names=np.array(["period", "amplitude"]))
        assert list(source.columns) == ["period", "amplitude"]

    def test_images_stay_one_column(self, tmp_path):
        source = self.save(tmp_path, x=np.zeros((4, 5, 5, 3), np.uint8), y=np.zeros(4))
        assert source.columns["x"] == Column(np.dtype(np.uint8), (5, 5, 3))

    def test_split(self, tmp_path):
        parts = {
            "x_train": np.zeros((4, 2)),
            "y_train": np.zeros(4),
            "x_test": np.ones((3, 2)),
            "y_test": np.ones(3),
        }
        source = self.save(tmp_path, **parts, id_train=np.arange(4), id_test=np.arange(4, 7))
        assert source.num_rows == 7
        got = whole(source, rows=3)
        assert got["split"].tolist() == ["train"] * 4 + ["test"] * 3
        assert got["object_id"].tolist() == list(range(7))
        np.testing.assert_array_equal(got["f1"], [0.0] * 4 + [1.0] * 3)

    def test_fortran_order(self, tmp_path):
        x = np.asfortranarray(np.arange(12.0).reshape(4, 3))
        np.testing.assert_array_equal(whole(self.save(tmp_path, flux=x), rows=3)["flux"], x)

    def test_flipped_bit(self, tmp_path):
        self.save(tmp_path, a=np.arange(1000.0))
        path = tmp_path / "t.npz"
        data = bytearray(path.read_bytes())
        data[4000] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(DataError, match="CRC"):
            whole(open_source(path))

    def test_objects_are_not_unpickled(self, tmp_path):
        source = self.save(tmp_path, a=np.arange(2), b=np.array([{"x": 1}, None]))
        assert list(whole(source)) == ["a"]
        with pytest.raises(DataError, match="'b'"):
            next(source.chunks(columns=["b"]))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, "differ in length"),
            ({"x": np.zeros((4, 2)), "feature_names": np.array(["a", "a"])}, "repeated"),
            ({"x": np.zeros((4, 2)), "feature_names": np.array(["a"])}, "do not fit"),
            ({"x": np.zeros((4, 2)), "id": np.arange(4), "oid": np.arange(4)}, "same column"),
            ({"x_train": np.zeros((4, 2)), "x_test": np.zeros((4, 3))}, "different columns"),
            (
                {"x_train": np.zeros((4, 2)), "y_train": np.zeros(4), "x_test": np.zeros((4, 2))},
                "different columns",
            ),
            ({"a": np.array(5.0)}, "empty"),
        ],
    )
    def test_wrong_shapes(self, tmp_path, arrays, message):
        with pytest.raises(DataError, match=message):
            self.save(tmp_path, **arrays)
