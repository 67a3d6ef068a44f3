"""Roles of columns, tables of features, and what is said when a table is not as agreed."""

from __future__ import annotations

import numpy as np
import pytest

from astroad_jax.config import Data
from astroad_jax.data import check_ids, find_roles, left_out, memory, open_source, read_table, stream_tables
from astroad_jax.data.table import as_labels
from astroad_jax.errors import DataError
from tests.data_files import BIG, FORMATS, sky, write

FEATURES = ("period", "amplitude", "num_obs")


def source_of(**columns):
    return memory("t", {name: np.asarray(values) for name, values in columns.items()})


class TestRoles:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_found_by_name_in_every_format(self, tmp_path, kind):
        roles = find_roles(open_source(write(tmp_path, kind, sky())), Data())
        assert (roles.id, roles.ra, roles.dec, roles.label) == ("object_id", "ra", "dec", "class")
        assert sorted(roles.features) == sorted(FEATURES)

    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            (["OID", "meanRA", "meanDEC", "f"], ("OID", "meanRA", "meanDEC", "")),
            (["TARGETID", "TARGET_RA", "TARGET_DEC", "f"], ("TARGETID", "TARGET_RA", "TARGET_DEC", "")),
            (
                ["source_id", "RAJ2000", "DEJ2000", "alerceclass", "f"],
                ("source_id", "RAJ2000", "DEJ2000", "alerceclass"),
            ),
            (["id", "object_id", "f"], ("object_id", "", "", "")),
            (["id", "ra", "f"], ("id", "", "", "")),  # half a position is none
            (["f", "g"], ("", "", "", "")),
        ],
    )
    def test_common_names(self, columns, expected):
        floats = ("f", "g", "ra", "dec")
        values = {n: np.zeros(2) if n in floats or "RA" in n or "DE" in n else np.arange(2) for n in columns}
        roles = find_roles(memory("t", values), Data())
        assert roles[:4] == expected
        assert set(roles.features) <= {"f", "g", "ra"}

    def test_second_ids_and_labels_are_no_features(self):
        source = source_of(object_id=[1, 2], source_id=[3, 4], label=[0, 1], target=[0, 1], f=[0.0, 1.0])
        assert find_roles(source, Data()).features == ("f",)

    @pytest.mark.parametrize("name", ["object_id", "ID", "TargetID"])
    def test_an_id_that_cannot_be_one_is_not_passed_over(self, name):
        """Row numbers in the place of damaged ids would look like ids."""
        damaged = source_of(**{name: [1.0, np.nan], "f": [1.0, 2.0]})
        with pytest.raises(DataError, match=f"cannot be the id\n.*column '{name}'"):
            find_roles(damaged, Data())
        assert find_roles(damaged, Data(ignore=(name,))).id == ""

    def test_fractions_are_no_labels(self):
        """A pixel coordinate called y is not a class."""
        pixels = source_of(id=[1, 2], x=[0.5, 1.5], y=[3.5, 4.5], f=[1.0, 2.0])
        assert find_roles(pixels, Data()).label == ""
        assert find_roles(source_of(id=[1, 2], y=[0, 1], f=[1.0, 2.0]), Data()).label == "y"
        assert find_roles(source_of(id=[1, 2], label=[0.0, np.nan], f=[1.0, 2.0]), Data()).label == "label"

    def test_what_plays_no_role_is_told(self):
        source = source_of(id=[1, 2], f=[1.0, 2.0], broken=["--", "3"], good=[True, False], __index_level_0__=[0, 1])
        roles = find_roles(source, Data())
        assert roles.features == ("f",)
        assert left_out(source, roles) == {"broken": "text", "good": "bool", "__index_level_0__": "int64"}

    @pytest.mark.parametrize("name", ["id", "label"])
    def test_answers_are_no_features(self, name):
        source = source_of(id=[1, 2], label=[0, 1], f=[1.0, 2.0])
        with pytest.raises(DataError, match="cannot be features"):
            find_roles(source, Data(id="id", label="label", features=("f", name)))

    @pytest.mark.parametrize(("unit", "expected"), [("", 1.0), ("deg", 1.0), ("rad", np.rad2deg(1.0))])
    def test_positions_are_degrees(self, unit, expected):
        columns = {"id": np.array([7]), "ra": np.array([1.0]), "dec": np.array([1.0]), "f": np.array([0.0])}
        source = memory("t", columns, units={"ra": unit, "dec": unit})
        table = read_table(source, find_roles(source, Data()))
        assert (table.ra[0], table.dec[0]) == pytest.approx((expected, expected))

    def test_positions_in_other_units_are_refused(self):
        columns = {"id": np.array([7]), "ra": np.array([1.0]), "dec": np.array([1.0]), "f": np.array([0.0])}
        with pytest.raises(DataError, match="hourangle"):
            find_roles(memory("t", columns, units={"ra": "hourangle"}), Data())

    def test_given_names_win(self):
        source = source_of(
            object_id=[1, 2], mine=["a", "b"], kind=["x", "y"], f=[0.0, 1.0], g=[0.0, 1.0], flag=[True, False]
        )
        data = Data(id="mine", label="kind", features=("g", "flag"))
        assert find_roles(source, data)[:5] == ("mine", "", "", "kind", ("g", "flag"))

    def test_ignored_columns_are_out(self):
        source = source_of(id=[1, 2], label=[0, 1], f=[0.0, 1.0], g=[0.0, 1.0])
        roles = find_roles(source, Data(ignore=("g", "label", "id")))
        assert roles[:5] == ("", "", "", "", ("f",))

    def test_text_is_no_feature(self):
        assert find_roles(source_of(word=["a", "b"], f=[0.0, 1.0]), Data()).features == ("f",)

    @pytest.mark.parametrize("name", ["x", "image", "FLUX"])
    def test_array_column(self, name):
        source = memory("t", {name: np.zeros((4, 6, 6)), "z": np.zeros(4)})
        roles = find_roles(source, Data())
        assert roles.features == (name,)
        assert read_table(source, roles).x.shape == (4, 6, 6)

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (Data(id="objectid"), ["data.id", "did you mean 'object_id'"]),
            (Data(features=("perid", "amplitud")), ["'perid'", "'amplitud'", "did you mean 'period'"]),
            (Data(ignore=("perio",)), ["data.ignore", "did you mean 'period'"]),
            (Data(features=("code",)), ["not numeric", "code", "text"]),
            (Data(features=("period", "class")), ["not numeric", "class"]),
            (Data(id="period"), ["cannot be the id", "float64"]),
            (Data(ra="code", dec="dec"), ["cannot be the ra"]),
            (Data(ignore=FEATURES), ["no feature"]),
        ],
    )
    def test_what_cannot_be(self, data, said):
        with pytest.raises(DataError) as caught:
            find_roles(memory("t", sky()), data)
        assert all(text in str(caught.value) for text in said), str(caught.value)

    def test_an_array_among_scalars(self):
        source = memory("t", {"a": np.zeros(3), "v": np.zeros((3, 2))})
        with pytest.raises(DataError, match="only one"):
            find_roles(source, Data(features=("a", "v")))


class TestTable:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_reads_what_was_written(self, tmp_path, kind):
        columns = sky()
        source = open_source(write(tmp_path, kind, columns))
        table = read_table(source, find_roles(source, Data(features=FEATURES)))
        expected = np.stack([columns[name] for name in FEATURES], axis=1).astype(np.float32)
        np.testing.assert_array_equal(table.x, expected)
        assert table.x.dtype == np.float32
        assert table.ids[0] == BIG
        np.testing.assert_array_equal(table.label, columns["class"])
        np.testing.assert_array_equal(table.ra, columns["ra"])

    @pytest.mark.parametrize("kind", FORMATS)
    @pytest.mark.parametrize("rows", [1, 7, 1000])
    def test_streaming_equals_reading_whole(self, tmp_path, kind, rows):
        source = open_source(write(tmp_path, kind, sky()))
        roles = find_roles(source, Data(id="code"))
        parts = list(stream_tables(source, roles, rows))
        table = read_table(source, roles)
        for field in ("ids", "ra", "dec", "label", "x"):
            joined = np.concatenate([getattr(part, field) for part in parts])
            np.testing.assert_array_equal(joined, getattr(table, field))

    def test_row_numbers_count_over_the_whole_file(self):
        source = memory("t", {"f": np.zeros(10)})
        parts = list(stream_tables(source, find_roles(source, Data()), 4))
        assert np.concatenate([part.ids for part in parts]).tolist() == list(range(10))
        assert parts[0].ids.dtype == np.int64

    def test_absent_columns_are_none(self):
        source = memory("t", {"f": np.zeros(3)})
        table = read_table(source, find_roles(source, Data()))
        assert (table.ra, table.dec, table.label) == (None, None, None)

    def test_a_missing_integer_leaves_the_others_as_they_are(self):
        wide = 2**60 + 2**36 + 1  # rounded to float32 at once it goes up, by way of float64 down
        columns = {"object_id": np.arange(2), "count": np.ma.array([wide, 0], mask=[False, True])}
        holed = memory("t", columns)
        whole = memory("t", columns | {"count": np.array([wide, 0])})
        of = [read_table(source, find_roles(source, Data())).x[0, 0] for source in (holed, whole)]
        assert of[0] == of[1] == np.float32(np.float64(wide))

    def test_beyond_float32_is_infinite(self):
        source = memory("t", {"f": np.array([1e300, -1e300, 1.0])})
        table = read_table(source, find_roles(source, Data()))
        assert table.x[:, 0].tolist() == [np.inf, -np.inf, 1.0]

    @pytest.mark.parametrize("num_rows", [9, 11, None])
    def test_row_count_is_checked_or_found(self, num_rows):
        source = memory("t", {"f": np.zeros(10)})._replace(num_rows=num_rows)
        roles = find_roles(source, Data())
        if num_rows is None:
            assert read_table(source, roles).x.shape == (10, 1)
        else:
            with pytest.raises(DataError, match="changed"):
                read_table(source, roles)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (np.array([0, 7]), ["0", "7"]),
            (np.array([1.0, np.nan, 2.5]), ["1", "", "2.5"]),
            (np.array([True, False]), ["True", "False"]),
            (np.array(["SN Ia", ""]), ["SN Ia", ""]),
        ],
    )
    def test_labels_are_text(self, values, expected):
        assert as_labels(values).tolist() == expected

    def test_missing_text_id_names_the_row(self):
        source = source_of(id=["a", "b", "", "d"], f=np.zeros(4))
        with pytest.raises(DataError, match="row 2"):
            list(stream_tables(source, find_roles(source, Data()), 2))

    @pytest.mark.parametrize("kind", ["parquet", "csv", "ecsv"])
    def test_missing_integer_id_is_an_error(self, tmp_path, kind):
        path = tmp_path / f"t.{kind}"
        if kind == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"object_id": pa.array([1, None, 3]), "f": [0.0, 1.0, 2.0]}), path)
        elif kind == "csv":
            path.write_text("object_id,f\n1,0\n,1\n3,2\n")
        else:
            from astropy.table import MaskedColumn, Table

            ids = MaskedColumn([1, 2, 3], mask=[False, True, False])
            Table({"object_id": ids, "f": np.arange(3.0)}).write(path, format="ascii.ecsv")
        source = open_source(path)
        with pytest.raises(DataError, match="cannot be the id"):
            find_roles(source, Data(id="object_id"))


class TestIds:
    @pytest.mark.parametrize("ids", [np.arange(5), np.array(["a", "b"]), np.array([], np.int64)])
    def test_unique(self, ids):
        check_ids(ids, "t")

    def test_duplicates_are_counted_and_named(self):
        with pytest.raises(DataError) as caught:
            check_ids(np.array([5, 7, 5, 7, 1, 9]), "t.csv")
        assert "2 ids" in caught.value.got
        assert "[5, 7]" in caught.value.got
        assert caught.value.where == "t.csv"


class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "num_rows", "num_features", "labelled"),
        [
            ("lightcurves/alerce_features_98.npz", 98, 178, True),
            ("lightcurves/alerce_features_100_unlabelled.parquet", 100, 183, False),
            ("lightcurves/asas_features.npz", 810, 36, True),
            ("lightcurves/crts_feets_494.npz", 494, 56, True),
            ("lightcurves/eros1_features.npz", 3641, 76, True),
            ("lightcurves/ztf_bts_transients_3374.npz", 3374, 12, True),
            ("tabular/pima.npz", 768, 8, True),
            ("tabular/thyroid.npz", 3772, 6, True),
        ],
    )
    def test_tables(self, shared_data, name, num_rows, num_features, labelled):
        source = open_source(shared_data / name)
        table = read_table(source, find_roles(source, Data()))
        assert table.x.shape == (num_rows, num_features)
        assert (table.label is not None) == labelled
        check_ids(table.ids, name)

    def test_object_table_has_positions(self, shared_data):
        source = open_source(shared_data / "lightcurves/alerce_object_info.parquet")
        roles = find_roles(source, Data())
        assert roles[:4] == ("oid", "meanra", "meandec", "")
        table = read_table(source, roles)
        assert table.ids[0].startswith("ZTF")
        assert np.all((table.ra >= 0) & (table.ra < 360))

    @pytest.mark.parametrize("name", ["redrock-4-80613-thru20210324.fits", "coadd-4-80613-thru20210324.fits"])
    def test_desi_target_ids_are_exact(self, shared_data, name):
        source = open_source(shared_data / "spectra" / name)
        table = read_table(source, find_roles(source, Data()))
        assert table.ids.tolist() == [39633345008634465]

    def test_mnist_streams_as_images(self, shared_data):
        source = open_source(shared_data / "mnist/mnist.npz")
        assert source.num_rows == 70_000
        roles = find_roles(source, Data())
        first = next(stream_tables(source, roles, 100))
        assert first.x.shape == (100, 28, 28)
        assert first.label[:3].tolist() == ["5", "0", "4"]
