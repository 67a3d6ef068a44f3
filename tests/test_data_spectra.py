"""Spectra of five layouts: joined with their redshifts, brought to one grid; what is bad is flagged with its reason."""

from __future__ import annotations

import logging
import zipfile

import numpy as np
import pytest

from astroad_jax.config import Data, Spectra
from astroad_jax.data import beside, find_roles, memory, open_source, partition_of, read_table, spectra_desi
from astroad_jax.errors import DataError
from astroad_jax.preprocess import spectra as grids
from astroad_jax.preprocess.spectra import unit_norm
from astroad_jax.preprocess.wavelengths import vacuum_to_air
from tests import spectra_files as made
from tests.data_files import cut
from tests.spectra_files import FULL, GRID, sky, take

COLUMNS = ["object_id", "ra", "dec", "z", "spectype", "snr", "spectrum", "flags"]
OBSERVED = GRID.model_copy(update={"frame": "observed"})


def whole(source, rows=65536):
    """All rows of a source."""
    parts = list(source.chunks(rows))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def read(path, settings=GRID, **options):
    return whole(open_source(path, spectra=settings, **options))


def with_redshifts(folder, objects=None, **changes):
    """A coadd and its redrock file."""
    objects = objects or sky()
    made.redrock(folder, objects)
    return made.desi(folder, objects, **changes)


# layout -> (writer of a path, format it is told to have)
LAYOUTS = {
    "desi": (with_redshifts, "desi"),
    "sdss": (lambda folder, objects: made.sdss(folder, objects) and folder, "sdss"),
    "lamost to DR7": (lambda folder, objects: made.lamost(folder, objects, False) and folder, "lamost"),
    "lamost from DR8": (lambda folder, objects: made.lamost(folder, objects, True) and folder, "lamost"),
    "mmu": (made.mmu, "mmu"),
    "npz": (made.npz, "spectra_npz"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
class TestEveryLayout:
    def test_is_told_by_its_content_and_gives_the_same_columns(self, tmp_path, layout):
        write, kind = LAYOUTS[layout]
        objects = sky()
        source = open_source(write(tmp_path, objects), spectra=GRID)
        got = whole(source)
        assert (source.format, source.num_rows) == (kind, 6)
        assert sorted(source.columns) == sorted(COLUMNS)
        for name, column in source.columns.items():
            assert got[name].shape[1:] == column.shape
            assert got[name].dtype.kind == column.dtype.kind
        assert source.columns["spectrum"].shape == (2, 40)
        assert (source.columns["flags"].dtype, source.columns["snr"].dtype) == (np.uint32, np.float32)
        np.testing.assert_allclose(got["z"], objects.z, rtol=1e-6)
        np.testing.assert_allclose([got["ra"], got["dec"]], [objects.ra, objects.dec])
        assert got["spectype"].tolist() == objects.spectype.tolist()
        assert not got["flags"].any()

    def test_spectra_are_those_of_the_objects(self, tmp_path, layout):
        """On the grid: the truth at its centres, whatever the survey's pixels."""
        objects = sky()
        got = read(LAYOUTS[layout][0](tmp_path, objects))
        rest = take(objects, slice(None))._replace(z=np.zeros(6)).flux(grids.grid_centres(GRID))
        np.testing.assert_allclose(got["spectrum"][:, 0], rest, rtol=0.02)
        assert (got["spectrum"][:, 1] > 0).all()
        np.testing.assert_allclose(got["snr"], np.median(got["spectrum"][:, 0] * np.sqrt(got["spectrum"][:, 1]), 1), 1e-5)

    def test_is_the_same_in_any_pieces_and_company(self, tmp_path, layout):
        source = open_source(LAYOUTS[layout][0](tmp_path, sky()), spectra=GRID)
        want = whole(source)
        for rows in (1, 4) if layout == "desi" else (4,):
            got = whole(source, rows)
            assert max(len(chunk["z"]) for chunk in source.chunks(rows)) <= rows
            for name in COLUMNS:
                np.testing.assert_array_equal(got[name], want[name])

    def test_ids_alone_cost_no_spectra(self, tmp_path, layout, monkeypatch):
        source = open_source(LAYOUTS[layout][0](tmp_path, sky()), spectra=GRID)
        monkeypatch.setattr(grids, "to_grid", None)
        assert len(next(source.chunks(columns=["object_id", "z"]))["object_id"]) == 6

    def test_roles(self, tmp_path, layout):
        source = open_source(LAYOUTS[layout][0](tmp_path, sky()), spectra=GRID)
        roles = find_roles(source, Data())
        assert roles == ("object_id", "ra", "dec", "spectype", ("spectrum",), "flags", ("z", "snr"))
        table = read_table(source, roles)
        assert table.x.shape == (6, 2, 40)
        assert sorted(table.kept) == ["snr", "z"]


IDS = {
    "desi": made.FIRST_ID + 7 * np.arange(6),
    "sdss": [f"0266-51630-{row:04d}" for row in range(1, 7)],
    "lamost to DR7": 101 + np.arange(6),
    "mmu": (made.FIRST_ID + 7 * np.arange(6)).astype(str),
    "npz": made.FIRST_ID + 7 * np.arange(6),
}


@pytest.mark.parametrize("layout", IDS)
def test_ids_keep_their_type(tmp_path, layout):
    got = read(LAYOUTS[layout][0](tmp_path, sky()))["object_id"]
    assert got.tolist() == np.asarray(IDS[layout]).tolist()
    assert got.dtype.kind == np.asarray(IDS[layout]).dtype.kind


class TestTellingApart:
    def test_a_format_that_is_given_wins(self, tmp_path):
        assert open_source(with_redshifts(tmp_path), format="fits").format == "fits"
        assert open_source(made.npz(tmp_path, sky()), format="npz").format == "npz"
        assert open_source(made.mmu(tmp_path, sky()), format="hdf5").format == "hdf5"

    @pytest.mark.parametrize(
        "arrays",
        [
            {"flux": np.ones((5, 9)), "wavelength": np.arange(9.0)},  # on a grid of its own already
            {"flux": np.ones(5), "wavelength": np.ones(5), "z": np.ones(5)},  # two features
            {"flux": np.ones((5, 9)), "wavelength": np.arange(7.0), "z": np.ones(5)},  # do not go together
            {"flux": np.ones((5, 9)), "z": np.ones(5)},
        ],
    )
    def test_other_npz_are_tables(self, tmp_path, arrays):
        np.savez(tmp_path / "t.npz", **arrays)
        assert open_source(tmp_path / "t.npz").format == "npz"

    def test_other_fits_and_hdf5_are_tables(self, tmp_path):
        import h5py

        assert open_source(made.redrock(tmp_path, sky())).format == "fits"
        with h5py.File(tmp_path / "t.h5", "w") as file:
            file["flux"] = np.ones((4, 3))
        assert open_source(tmp_path / "t.h5").format == "hdf5"

    def test_a_directory_with_pictures_is_one_of_images(self, tmp_path):
        from PIL import Image

        with_redshifts(tmp_path)
        Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
        with pytest.raises(DataError, match="no set of images"):
            open_source(tmp_path)

    def test_a_size_is_for_images(self, tmp_path):
        made.sdss(tmp_path, sky(1))
        with pytest.raises(DataError, match="only the images"):
            open_source(tmp_path, size=8)

    def test_an_empty_pattern(self, tmp_path):
        with pytest.raises(DataError, match="no such file"):
            open_source(tmp_path / "coadd-*.fits", spectra=GRID)


class TestSeveralFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        objects = sky(7)
        for name, rows in (("a", slice(0, 3)), ("b", slice(3, 7))):
            made.desi(tmp_path, take(objects, rows), f"coadd-{name}.fits")
            made.redrock(tmp_path, take(objects, rows), f"redrock-{name}.fits")
        return tmp_path

    @pytest.mark.parametrize("pattern", ["", "coadd-*.fits", "*.fits", "**/*-?.fits"])
    @pytest.mark.parametrize("kind", ["coadd", "spectra"])
    def test_coadds_are_one_after_another(self, folder, pattern, kind):
        for path in folder.glob("coadd-*"):
            path.rename(path.with_name(path.name.replace("coadd", kind)))
        pattern = pattern.replace("coadd", kind)
        source = open_source(folder / pattern, spectra=GRID)
        assert source.num_rows == 7
        assert read(folder / pattern)["object_id"].tolist() == sky(7).id.tolist()

    def test_healpix_directories(self, tmp_path):
        for pixel, rows in ((1, slice(0, 2)), (2, slice(2, 6))):
            made.mmu(tmp_path / f"healpix={pixel}", take(sky(), rows))
        assert read(tmp_path)["z"].tolist() == sky().z.tolist()

    def test_names_and_what_they_depend_on(self, folder):
        pattern = str(folder / "coadd-*.fits")
        assert partition_of(pattern) == open_source(pattern, spectra=GRID).name
        assert partition_of(folder) == open_source(folder, spectra=GRID).name
        made.mmu(folder / "mmu", sky())
        assert partition_of(folder / "mmu/*.hdf5") == open_source(folder / "mmu/*.hdf5", spectra=GRID).name
        names = [f"{kind}-{name}.fits" for kind in ("coadd", "redrock") for name in "ab"]
        assert beside(pattern, GRID) == [str(folder / name) for name in names]
        assert beside(str(folder / "coadd-a.fits"), GRID) == [str(folder / "redrock-a.fits")]

    def test_different_columns_are_refused(self, tmp_path):
        made.mmu(tmp_path / "a", sky())
        made.mmu(tmp_path / "b", sky(), ra=None, dec=None)
        with pytest.raises(DataError, match="different columns"):
            open_source(tmp_path, spectra=GRID)


class TestDesi:
    def test_overlapping_arms_are_averaged_with_their_inverse_variances(self, tmp_path):
        """At 5760 A to 5800 A both B and R have pixels: sum(ivar f) / sum(ivar), and the sum of the ivar."""
        objects = sky(2)
        overlap = slice(270, 276), slice(0, 6)
        flux = {arm: np.ones((2, size), np.float32) for arm, (_, size) in made.ARMS.items()}
        ivar = {arm: np.full((2, size), 4, np.float32) for arm, (_, size) in made.ARMS.items()}
        flux["B"][:, overlap[0]], flux["R"][:, overlap[1]] = 3, 6
        ivar["B"][:, overlap[0]], ivar["R"][:, overlap[1]] = 1, 2
        ivar["R"][1, 0] = 0  # there only B counts
        mask = np.zeros(flux["B"].shape, np.int32)
        mask[0, 271] = 1  # and there only R
        changes = {f"{arm}_FLUX": (flux[arm], made.DESI_UNIT) for arm in flux} | {f"{arm}_IVAR": ivar[arm] for arm in ivar}
        path = made.desi(tmp_path, objects, B_MASK=mask, **changes)
        pixels = Spectra(bins=6, low=5756, high=5804, frame="observed", snr_min=0)
        got = read(path, pixels)["spectrum"]
        np.testing.assert_allclose(got[0], [[5, 6, 5, 5, 5, 5], [3, 2, 3, 3, 3, 3]], rtol=1e-6)
        np.testing.assert_allclose(got[1], [[3, 5, 5, 5, 5, 5], [1, 3, 3, 3, 3, 3]], rtol=1e-6)

    def test_one_joined_arm(self, tmp_path):
        objects = sky()
        flux = objects.flux(FULL)
        changes = {f"{arm}_{kind}": None for arm in "BRZ" for kind in ("WAVELENGTH", "FLUX", "IVAR", "MASK")}
        changes |= {"BRZ_WAVELENGTH": (FULL / 10, "nm"), "BRZ_FLUX": flux, "BRZ_IVAR": made.ivar_of(flux)}
        joined = read(with_redshifts(tmp_path, objects, **changes))
        (tmp_path / "arms").mkdir()
        np.testing.assert_allclose(
            joined["spectrum"][:, 0], read(with_redshifts(tmp_path / "arms", objects))["spectrum"][:, 0], rtol=1e-5
        )

    def test_redshifts_come_by_id_not_by_row(self, tmp_path):
        objects = sky()
        made.redrock(tmp_path, take(objects, [4, 2, 5, 0, 1, 3]))
        got = read(made.desi(tmp_path, objects))
        assert got["z"].tolist() == objects.z.tolist()
        assert got["spectype"].tolist() == objects.spectype.tolist()

    def test_an_object_without_a_row_is_flagged(self, tmp_path):
        made.redrock(tmp_path, take(sky(), [0, 1, 3, 4]))
        got = read(made.desi(tmp_path, sky()))
        assert got["flags"].tolist() == [0, 0, grids.NO_REDSHIFT_ROW, 0, 0, grids.NO_REDSHIFT_ROW]
        assert np.isnan(got["z"]).tolist() == [False, False, True, False, False, True]
        assert not got["spectrum"][2].any()

    @pytest.mark.parametrize(
        ("z", "spectype", "flag"),
        [
            ([0.1, 0.1], ["GALAXY", "GALAXY"], 0),
            ([0.1, 0.2], ["GALAXY", "GALAXY"], grids.NO_REDSHIFT_ROW),
            ([0.1, 0.2, 0.1], ["GALAXY"] * 3, grids.NO_REDSHIFT_ROW),
            ([0.1, 0.1, 0.1], ["GALAXY", "QSO", "GALAXY"], grids.NO_REDSHIFT_ROW),
            ([np.nan], ["GALAXY"], grids.NO_REDSHIFT),
            ([np.nan, np.nan], ["GALAXY", "GALAXY"], grids.NO_REDSHIFT),
            ([0.1, np.nan], ["GALAXY", "GALAXY"], grids.NO_REDSHIFT_ROW),
            ([np.nan, np.nan], ["GALAXY", "QSO"], grids.NO_REDSHIFT_ROW),
        ],
    )
    def test_rows_that_contradict_each_other_are_flagged(self, tmp_path, z, spectype, flag):
        """Rows of the third object: all are looked at, in whatever order."""
        objects = take(sky(), [0, 1, *[2] * len(z), 3, 4, 5])
        rows = slice(2, 2 + len(z))
        objects.z[rows], objects.spectype[rows] = z, spectype
        made.redrock(tmp_path, objects)
        assert read(made.desi(tmp_path, sky()))["flags"].tolist() == [0, 0, flag, 0, 0, 0]

    def test_observed_spectra_need_no_row(self, tmp_path):
        made.redrock(tmp_path, take(sky(), [0, 1, 1, 2]))
        got = read(made.desi(tmp_path, sky()), OBSERVED)
        assert not got["flags"].any()
        assert np.isnan(got["z"]).tolist() == [False] * 3 + [True] * 3

    def test_a_catalogue_is_read_once_and_again_when_it_changes(self, tmp_path, monkeypatch):
        opened = []
        whole_file = spectra_desi.checked_hdus
        monkeypatch.setattr(
            spectra_desi, "checked_hdus", lambda path, **more: opened.append(path) or whole_file(path, **more)
        )
        catalogue = made.redrock(tmp_path, sky(), "zall.fits")
        settings = GRID.model_copy(update={"redshifts": str(catalogue)})
        paths = [made.desi(tmp_path, sky(), f"coadd-{name}.fits") for name in "ab"]
        assert [read(path, settings)["z"].tolist() for path in paths] == [sky().z.tolist()] * 2
        assert opened.count(str(catalogue)) == 1
        catalogue.unlink()
        made.redrock(tmp_path, sky()._replace(z=sky().z / 2), "zall.fits")
        assert read(paths[0], settings)["z"].tolist() == (sky().z / 2).tolist()

    def test_which_redshifts_were_asked_is_said(self, tmp_path, caplog):
        path = with_redshifts(tmp_path)
        with caplog.at_level(logging.INFO):
            open_source(path, spectra=GRID)
        assert "redrock-a.fits, which has 6 of 6 objects" in caplog.text
        other = made.redrock(tmp_path, sky()._replace(id=sky().id + 1), "zall.fits")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            got = read(path, GRID.model_copy(update={"redshifts": str(other)}))
        assert "none of its 6 objects has a row in" in caplog.text
        assert "leave spectra.redshifts empty" in caplog.text
        assert (got["flags"] == grids.NO_REDSHIFT_ROW).all()

    def test_a_whole_catalogue_of_redshifts_has_primary_rows(self, tmp_path):
        objects = take(sky(), [0, 1, 2, 2, 3, 4, 5])
        z = objects.z.copy()
        z[3] = 2.0
        primary = np.arange(7) != 3
        path = made.redrock(tmp_path, objects._replace(z=z), "zall-pix.fits", "ZCATALOG", ZCAT_PRIMARY=primary)
        got = read(made.desi(tmp_path, sky()), GRID.model_copy(update={"redshifts": str(path)}))
        assert got["z"].tolist() == sky().z.tolist()

    def test_without_redshifts(self, tmp_path):
        path = made.desi(tmp_path, sky())
        with pytest.raises(DataError, match=r"redrock-a.fits(.|\n)*spectra.redshifts"):
            open_source(path, spectra=GRID)
        got = read(path, OBSERVED)
        assert not got["flags"].any()
        assert np.isnan(got["z"]).all()
        assert set(got["spectype"]) == {""}

    @pytest.mark.parametrize("name", ["redrock-a.fits", "zbest-a.fits"])
    def test_redshifts_elsewhere(self, tmp_path, name):
        elsewhere = tmp_path / "z"
        elsewhere.mkdir()
        file = made.redrock(elsewhere, sky(), name, "ZBEST" if name.startswith("zbest") else "REDSHIFTS")
        path = made.desi(tmp_path, sky())
        for place in (elsewhere, file):
            settings = GRID.model_copy(update={"redshifts": str(place)})
            assert not read(path, settings)["flags"].any()
            assert beside(str(path), settings) == [str(file)]

    def test_blank_sky_is_no_object(self, tmp_path):
        kinds = np.array(["TGT", "SKY", "TGT", "BAD", "TGT", "TGT"])
        fibermap = {"TARGETID": sky().id, "OBJTYPE": kinds}
        got = read(with_redshifts(tmp_path, FIBERMAP=fibermap))
        assert ((got["flags"] & grids.NO_TARGET) > 0).tolist() == (kinds != "TGT").tolist()
        assert "ra" not in got

    def test_duplicate_ids_stay(self, tmp_path):
        objects = take(sky(), [0, 1, 1, 2])
        made.redrock(tmp_path, objects)
        got = read(made.desi(tmp_path, objects))
        assert got["object_id"].tolist() == objects.id.tolist()
        assert not got["flags"].any()

    @pytest.mark.parametrize("arm", "BRZ")
    def test_a_missing_arm_is_said_and_its_objects_flagged(self, tmp_path, arm, caplog):
        gone = {f"{arm}_{kind}": None for kind in ("WAVELENGTH", "FLUX", "IVAR", "MASK")}
        with caplog.at_level(logging.WARNING):
            path = with_redshifts(tmp_path, **gone)
            got = read(path)
        assert f"lacks arm {arm}" in caplog.text
        assert ((got["flags"] & grids.NOT_COVERED) > 0).all()
        lenient = read(path, GRID.model_copy(update={"coverage": 0.3, "good": 0.3}))
        assert not lenient["flags"].any()
        assert (lenient["spectrum"][:, 1] == 0).any(axis=1).all()

    @pytest.mark.parametrize("kind", ["IVAR", "MASK"])
    def test_an_arm_without_a_good_pixel_is_no_data(self, tmp_path, kind):
        """Of the third object, the two arms that it is mostly in."""
        changes = {}
        for arm in "BR":
            values = np.full((6, made.ARMS[arm][1]), 44 if kind == "IVAR" else 0, np.float32 if kind == "IVAR" else np.int32)
            values[2] = 0 if kind == "IVAR" else 8
            changes[f"{arm}_{kind}"] = values
        path = with_redshifts(tmp_path, **changes)
        assert read(path)["flags"].tolist() == [0, 0, grids.MOSTLY_BAD, 0, 0, 0]
        assert not read(path, GRID.model_copy(update={"good": 0.0}))["flags"].any()

    def test_masks_are_of_all_arms_or_of_none(self, tmp_path):
        none = {f"{arm}_MASK": None for arm in "BRZ"}
        assert not read(with_redshifts(tmp_path, **none))["flags"].any()
        (tmp_path / "one").mkdir()
        with pytest.raises(DataError, match="lacks an extension(.|\n)*R_MASK"):
            open_source(with_redshifts(tmp_path / "one", R_MASK=None), spectra=GRID)

    @pytest.mark.parametrize("name", ["FIBERMAP", "B_FLUX", "R_IVAR", "Z_WAVELENGTH"])
    def test_a_missing_extension(self, tmp_path, name):
        with pytest.raises(DataError, match=f"lacks an extension(.|\n)*{name}"):
            open_source(with_redshifts(tmp_path, **{name: None}), spectra=GRID)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"B_FLUX": np.ones((6, 275))}, "do not go together(.|\n)*B_FLUX"),
            ({"Z_IVAR": np.ones((5, 290))}, "do not go together(.|\n)*Z_IVAR"),
            ({"B_MASK": np.zeros((6, 3), np.int32)}, "do not go together(.|\n)*B_MASK"),
            ({"R_WAVELENGTH": (5763.0 + 8 * np.arange(234), "Angstrom")}, "do not share one wavelength grid"),
            ({"R_WAVELENGTH": (5760.0 + 9 * np.arange(234), "Angstrom")}, "do not share one wavelength grid"),
            ({"R_WAVELENGTH": (5760.0 + 8 * np.arange(234), "Hz")}, "wavelengths in this unit(.|\n)*Hz"),
            ({"R_WAVELENGTH": 576.0 + 0.8 * np.arange(234)}, "no wavelengths in angstroms(.|\n)*576"),
            ({"B_FLUX": (np.ones((6, 276)), "nanomaggy")}, "flux in this unit(.|\n)*nanomaggy"),
            ({"B_FLUX": (np.ones((6, 276)), "erg/(s cm2 Hz)")}, "flux in this unit"),
            ({"B_FLUX": (np.ones((6, 276)), "electron/Angstrom")}, "flux in this unit"),
            ({"FIBERMAP": {"FIBER": np.arange(6)}}, "no ids(.|\n)*TARGETID"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, tmp_path, change, message):
        with pytest.raises(DataError, match=message):
            open_source(with_redshifts(tmp_path, **change), spectra=GRID)

    def test_redshift_files_that_are_none(self, tmp_path):
        path = made.desi(tmp_path, sky())
        made.redrock(tmp_path, sky(), table="OTHER")
        with pytest.raises(DataError, match="REDSHIFTS"):
            open_source(path, spectra=GRID)
        settings = GRID.model_copy(update={"redshifts": str(tmp_path / "absent.fits")})
        with pytest.raises(DataError, match="no such file(.|\n)*absent.fits"):
            open_source(path, spectra=settings)

    def test_wavelengths_in_single_precision(self, tmp_path):
        """DESI's own arms, whose steps of 0.8 A float32 rounds by a tenth of a per cent."""
        objects, arms = sky(1), {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}
        changes = {}
        for arm, (first, size) in arms.items():
            wave = first + 0.8 * np.arange(size)
            flux = objects.flux(wave).astype(np.float32)
            changes |= {f"{arm}_WAVELENGTH": (wave, "Angstrom"), f"{arm}_FLUX": flux, f"{arm}_IVAR": made.ivar_of(flux)}
            changes |= {f"{arm}_MASK": np.zeros(flux.shape, np.int32)}
        want = read(with_redshifts(tmp_path, objects, **changes))
        (tmp_path / "single").mkdir()
        rounded = {name: value[0].astype(np.float32) for name, value in changes.items() if name.endswith("WAVELENGTH")}
        got = read(with_redshifts(tmp_path / "single", objects, **changes | rounded))
        assert not got["flags"].any()
        np.testing.assert_allclose(got["spectrum"], want["spectrum"], rtol=1e-3)

    @pytest.mark.parametrize(
        ("waves", "fine"),
        [
            ({"B": [3600.0], "R": [3608.0, 3616.0]}, True),
            ({"B": [3600.0, 3608.0], "R": [3616.0]}, True),
            ({"B": [3600.0, 3608.0], "R": [3620.0]}, False),
            ({"B": [3600.0], "R": [3608.0]}, False),
        ],
    )
    def test_arms_of_one_pixel(self, waves, fine):
        waves = {arm: np.array(wave) for arm, wave in waves.items()}
        if fine:
            assert spectra_desi._common(waves, "a")[1].tolist() == [3600.0, 3608.0, 3616.0]
        else:
            with pytest.raises(DataError, match="do not share one wavelength grid"):
                spectra_desi._common(waves, "a")

    @pytest.mark.parametrize("bytes_left", [0, 80, 1000, 2879])
    @pytest.mark.parametrize("name", ["B_WAVELENGTH", "R_FLUX", "Z_MASK", "REDSHIFTS"])
    def test_files_cut_within_a_header(self, tmp_path, name, bytes_left):
        from astropy.io import fits

        path = with_redshifts(tmp_path)
        cut_file = tmp_path / "redrock-a.fits" if name == "REDSHIFTS" else path
        with fits.open(cut_file) as hdus:
            start = hdus[name].fileinfo()["hdrLoc"]
        cut_file.write_bytes(cut_file.read_bytes()[: start + bytes_left])
        with pytest.raises(DataError, match=cut_file.name) as caught:
            open_source(path, spectra=GRID)
        assert (caught.value.what == "this DESI file lacks an extension") == (bytes_left == 0)

    def test_redshifts_that_fail_their_checksums(self, tmp_path):
        from astropy.io import fits

        path = with_redshifts(tmp_path)
        file = tmp_path / "redrock-a.fits"
        with fits.open(file) as hdus:
            hdus.writeto(tmp_path / "summed.fits", checksum=True)
        whole_file = bytearray((tmp_path / "summed.fits").read_bytes())
        whole_file[-2880] ^= 1  # of the first object's id
        file.write_bytes(whole_file)
        with pytest.raises(DataError, match="does not match its checksums(.|\n)*redrock-a.fits"):
            open_source(path, spectra=GRID)

    @pytest.mark.parametrize("name", ["coadd-a.fits", "redrock-a.fits"])
    @pytest.mark.parametrize("share", [0.5, 0.97])
    def test_cut_files(self, tmp_path, name, share):
        path = with_redshifts(tmp_path)
        cut(tmp_path / name, share)
        with pytest.raises(DataError, match=name):
            open_source(path, spectra=GRID)

    def test_real_coadds(self, shared_data):
        want = {"4-80613-thru20210324": (39633345008634465, 0.3687), "special-dark-27247": (39089837499744649, 0.00727)}
        for name, (targetid, z) in want.items():
            got = read(shared_data / "spectra" / f"coadd-{name}.fits", Spectra(z_max=0.4, coverage=0.98, snr_min=1))
            assert (got["object_id"][0], got["spectype"][0]) == (targetid, "GALAXY")
            assert got["z"][0] == pytest.approx(z, abs=1e-4)
            assert (got["spectrum"][0, 1] > 0).mean() > 0.9
            assert not (got["flags"][0] & ~np.uint32(grids.NOT_COVERED))

    def test_real_overlap_agrees_with_its_arms(self, shared_data):
        """At 5760 A to 5800 A of a real coadd, by hand, pixel by pixel."""
        from astropy.io import fits

        path = shared_data / "spectra/coadd-4-80613-thru20210324.fits"
        with fits.open(path) as hdus:
            b, r = (hdus[f"{arm}_IVAR"].data[0].astype(float) * (hdus[f"{arm}_MASK"].data[0] == 0) for arm in "BR")
            fb, fr = (hdus[f"{arm}_FLUX"].data[0].astype(float) for arm in "BR")
        low, high = 5760 - 0.4, 5760 + 51 * 0.8 - 0.4
        got = read(path, Spectra(bins=51, low=low, high=high, frame="observed", snr_min=0))["spectrum"][0]
        weight = b[2700:] + r[:51]
        np.testing.assert_allclose(got[1], weight, rtol=1e-4)
        np.testing.assert_allclose(got[0], (fb[2700:] * b[2700:] + fr[:51] * r[:51]) / weight, rtol=1e-4, atol=1e-4)


class TestOneObjectAFile:
    def test_masked_pixels_have_no_weight(self, tmp_path):
        mask = np.zeros(900, np.int32)
        mask[400:440] = 1 << 24
        paths = made.sdss(tmp_path, sky(1), and_mask=mask, or_mask=np.ones(900, np.int32))
        ivar = read(paths[0])["spectrum"][0, 1]
        assert 0 < (ivar == 0).sum() < 10

    @pytest.mark.parametrize(("bit", "lost"), [(0, False), (9, False), (15, False), (16, True), (23, True), (31, True)])
    def test_bits_of_the_fibre_mask_no_pixel(self, tmp_path, bit, lost):
        mask = np.full(900, np.int64(1) << bit).astype(np.uint32).view(np.int32)
        got = read(made.sdss(tmp_path, sky(1), and_mask=mask)[0])
        assert got["flags"].tolist() == [grids.ALL_BAD if lost else 0]

    @pytest.mark.parametrize("table", ["SPECOBJ", "SPALL", ""])
    def test_the_table_of_the_object(self, tmp_path, table):
        got = read(made.sdss(tmp_path, sky(1), table or None)[0])
        assert got["object_id"][0] == "0266-51630-0001"
        assert got["flags"][0] == (0 if table else grids.NO_REDSHIFT)

    @pytest.mark.parametrize(("layout", "ids"), [("sdss", "0266-51630-0002"), ("lamost from DR8", -1)])
    def test_a_file_that_cannot_be_read_is_a_flagged_object(self, tmp_path, layout, ids, caplog):
        LAYOUTS[layout][0](tmp_path, sky(3))
        bad = sorted(tmp_path.iterdir())[1]
        cut(bad)
        with caplog.at_level(logging.WARNING):
            got = read(tmp_path)
        assert got["flags"].tolist() == [0, grids.UNREADABLE, 0]
        assert got["object_id"][1] == ids
        assert bad.name in caplog.text
        for path in tmp_path.iterdir():
            cut(path)
        with pytest.raises(DataError, match="can be read"):
            open_source(tmp_path, format="sdss", spectra=GRID)

    def test_wavelengths_for_their_logarithm(self, tmp_path):
        path = made.sdss(tmp_path, sky(1), loglam=10 ** (3.55 + 5e-4 * np.arange(900)))[0]
        with pytest.raises(DataError, match="no sdss spectrum here can be read"):
            open_source(path, spectra=GRID)

    @pytest.mark.parametrize("vectors", [False, True])
    def test_lamost_without_a_redshift(self, tmp_path, vectors):
        got = read(made.lamost(tmp_path, sky(1), vectors, Z=-9999.0)[0])
        assert np.isnan(got["z"][0])
        assert got["flags"][0] == grids.NO_REDSHIFT


def hole(values, rows, value, pixels=Ellipsis):
    values = values.copy()
    values[rows, pixels] = value
    return values


FLUX, IVAR = sky().flux(FULL).astype(np.float32), made.ivar_of(sky().flux(FULL)).astype(np.float32)
MASK = np.zeros(FLUX.shape, bool)
OWN = np.repeat(FULL[None], 6, axis=0)  # wavelengths
BAD_OBJECTS = {
    "all masked": ({"mask": hole(MASK, 2, True)}, grids.ALL_BAD),
    "zero ivar everywhere": ({"ivar": hole(IVAR, 2, 0)}, grids.ALL_BAD),
    "negative ivar everywhere": ({"ivar": hole(IVAR, 2, -1)}, grids.ALL_BAD),
    "missing ivar everywhere": ({"ivar": hole(IVAR, 2, np.nan)}, grids.ALL_BAD),
    "missing flux everywhere": ({"flux": hole(FLUX, 2, np.nan)}, grids.ALL_BAD),
    "no flux at all": ({"flux": hole(FLUX, 2, 0)}, grids.ALL_BAD),
    "missing redshift": ({"z": hole(sky().z, 2, np.nan)}, grids.NO_REDSHIFT),
    "infinite redshift": ({"z": hole(sky().z, 2, np.inf)}, grids.NO_REDSHIFT),
    "negative redshift": ({"z": hole(sky().z, 2, -5e-4)}, grids.REDSHIFT_RANGE),
    "absurd redshift": ({"z": hole(sky().z, 2, 7e5)}, grids.REDSHIFT_RANGE | grids.NOT_COVERED | grids.ALL_BAD),
    "redshift of light that never came": ({"z": hole(sky().z, 2, -2)}, grids.REDSHIFT_RANGE),
    "half of the grid bad": ({"ivar": hole(IVAR, 2, 0, slice(0, 500))}, grids.MOSTLY_BAD),
    "three good pixels": ({"mask": hole(MASK, 2, True, np.delete(np.arange(780), [200, 201, 202]))}, grids.MOSTLY_BAD),
    "wavelengths of nothing": ({"wavelength": hole(OWN, 2, np.nan)}, grids.NO_WAVELENGTHS),
    "wavelengths in nm": ({"wavelength": hole(OWN, 2, FULL / 10)}, grids.NO_WAVELENGTHS),
    "the logarithm of wavelengths": ({"wavelength": hole(OWN, 2, np.log10(FULL))}, grids.NO_WAVELENGTHS),
    "low signal": ({"ivar": hole(IVAR, 2, 0.01)}, grids.LOW_SNR),
}


@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_bad_objects_are_flagged_with_their_reason(tmp_path, case):
    changes, reason = BAD_OBJECTS[case]
    path = made.npz(tmp_path, sky(), **changes)
    got = read(path)
    assert got["flags"][2] == reason
    assert not np.delete(got["flags"], 2).any()
    assert np.isfinite(got["spectrum"]).all()
    alone = whole(open_source(path, spectra=GRID), rows=1)
    for name in ("spectrum", "snr", "flags"):
        np.testing.assert_array_equal(alone[name], got[name])


def test_some_bad_pixels_are_no_reason(tmp_path):
    flux = hole(FLUX, slice(None), np.nan, slice(100, 104))
    got = read(made.npz(tmp_path, sky(), flux=flux, mask=hole(MASK, 1, True, slice(300, 310))))
    assert not got["flags"].any()
    assert np.isfinite(got["spectrum"]).all()


class TestWavelengths:
    def test_short_coverage_is_flagged(self, tmp_path):
        short = FULL < 9000
        got = read(made.npz(tmp_path, sky(), flux=FLUX[:, short], ivar=IVAR[:, short], wavelength=FULL[short]))
        np.testing.assert_array_equal(got["flags"] == grids.NOT_COVERED, 7556 * (1 + sky().z) > 9000)
        assert set(got["flags"]) == {0, grids.NOT_COVERED}

    @pytest.mark.parametrize("own", [False, True])
    def test_unsorted_pixels_are_put_in_order(self, tmp_path, own):
        order = np.random.default_rng(1).permutation(len(FULL))
        want = read(made.npz(tmp_path, sky()))["spectrum"]
        wave = np.repeat(FULL[order][None], 6, axis=0) if own else FULL[order]
        got = read(made.npz(tmp_path, sky(), flux=FLUX[:, order], ivar=IVAR[:, order], wavelength=wave))
        np.testing.assert_array_equal(got["spectrum"], want)

    def test_wavelengths_that_repeat(self, tmp_path):
        twice = FULL.copy()
        twice[9] = twice[8]
        with pytest.raises(DataError, match="two pixels have the same(.|\n)*spectra.npz(.|\n)*keep one"):
            read(made.npz(tmp_path, sky(), wavelength=twice))
        got = read(made.npz(tmp_path, sky(), wavelength=hole(OWN, 1, twice)))
        assert got["flags"].tolist() == [0, grids.NO_WAVELENGTHS, 0, 0, 0, 0]

    def test_pixels_that_were_left_out_are_not_covered(self, tmp_path):
        keep = np.delete(np.arange(780), 300)
        path = made.npz(tmp_path, sky(), flux=FLUX[:, keep], ivar=IVAR[:, keep], wavelength=FULL[keep])
        assert (read(path)["flags"] == grids.NOT_COVERED).all()
        assert not read(path, GRID.model_copy(update={"coverage": 0.98}))["flags"].any()

    def test_air_is_converted_where_it_is_said(self, tmp_path):
        want = read(made.npz(tmp_path, sky()))["spectrum"]
        path = made.npz(tmp_path, sky(), wavelength=vacuum_to_air(FULL))
        got = read(path, GRID.model_copy(update={"air": True}))["spectrum"]
        np.testing.assert_allclose(got, want, rtol=1e-4)
        assert np.abs(read(path)["spectrum"] / want - 1).max() > 1e-3

    @pytest.mark.parametrize("layout", ["desi", "sdss", "lamost from DR8"])
    def test_surveys_in_vacuum_stay_there(self, tmp_path, layout, caplog):
        path = LAYOUTS[layout][0](tmp_path, sky(2))
        with caplog.at_level(logging.WARNING):
            got = read(path, GRID.model_copy(update={"air": True}))["spectrum"]
        assert "spectra.air is not heeded" in caplog.text
        np.testing.assert_array_equal(got, read(path)["spectrum"])

    @pytest.mark.parametrize("units", [FULL / 10, FULL / 1e4, np.log10(FULL)])
    def test_other_units(self, tmp_path, units):
        with pytest.raises(DataError, match="no wavelengths in angstroms"):
            open_source(made.npz(tmp_path, sky(), wavelength=units), spectra=GRID)

    @pytest.mark.parametrize("value", [-1, 0, np.nan])
    def test_padding_is_no_spectrum(self, tmp_path, value):
        """As the MultimodalUniverse pads SDSS: whatever else is there, an object comes out as without it."""
        want = read(made.mmu(tmp_path / "a", sky()))
        pad = np.full((6, 50), value, np.float32)
        wide = {
            "spectrum_lambda": np.hstack([np.repeat(FULL[None], 6, 0).astype(np.float32), pad]),
            "spectrum_flux": np.hstack([FLUX, np.repeat(FLUX[:, -1:], 50, 1)]),
            "spectrum_ivar": np.hstack([IVAR, IVAR[:, :50]]),
            "spectrum_mask": np.hstack([MASK, MASK[:, :50]]),
        }
        wide["spectrum_lambda"][0, -60:] = value  # one is shorter, and falls short of no bin
        got = read(made.mmu(tmp_path / "b", sky(), **wide))
        for name in ("spectrum", "snr", "flags"):
            np.testing.assert_array_equal(got[name][1:], want[name][1:])


class TestArrays:
    def test_without_ivar_nothing_is_cut(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            got = read(made.npz(tmp_path, sky(), ivar=None))
        assert "no inverse variances" in caplog.text
        assert not got["flags"].any()
        assert np.isnan(got["snr"]).all()

    @pytest.mark.parametrize("unit", [10, 1e-6, 1e-17, 1e-30, 1e20])
    def test_without_ivar_the_unit_of_flux_is_of_no_matter(self, tmp_path, unit):
        want = read(made.npz(tmp_path, sky(), ivar=None, flux=FLUX.astype(float), mask=hole(MASK, 1, True, slice(200, 700))))
        got = read(made.npz(tmp_path, sky(), ivar=None, flux=FLUX * unit, mask=hole(MASK, 1, True, slice(200, 700))))
        for one, other in zip(unit_norm(*got["spectrum"].swapaxes(0, 1)), unit_norm(*want["spectrum"].swapaxes(0, 1))[:2]):
            np.testing.assert_allclose(one, other, rtol=1e-5)
        np.testing.assert_array_equal(got["flags"], want["flags"])
        assert got["flags"].tolist() == [0, grids.MOSTLY_BAD, 0, 0, 0, 0]

    @pytest.mark.parametrize("name", ["sigma", "err", "error", "Flux_Error"])
    def test_errors_do_for_inverse_variances(self, tmp_path, name, caplog):
        ivar = hole(IVAR, 2, 0, slice(100, 110))
        want = read(made.npz(tmp_path, sky(), ivar=ivar))
        errors = 1 / np.sqrt(IVAR)
        errors[2, 100:110] = [0, -1, np.nan, np.inf, -np.inf] * 2
        with caplog.at_level(logging.WARNING):
            got = read(made.npz(tmp_path, sky(), ivar=None, **{name: errors}))
        assert "no inverse variances" not in caplog.text
        for column in ("spectrum", "snr", "flags"):
            np.testing.assert_allclose(got[column], want[column], rtol=1e-5)

    @pytest.mark.parametrize("errors", [np.ones(6), np.ones((6, 5))])
    def test_errors_of_something_else(self, tmp_path, errors):
        assert np.isnan(read(made.npz(tmp_path, sky(), ivar=None, sigma=errors))["snr"]).all()
        got = read(made.npz(tmp_path, sky(), ivar=None, sigma=errors, flux_error=1 / np.sqrt(IVAR)))
        assert np.isfinite(got["snr"]).all()
        assert np.isfinite(read(made.npz(tmp_path, sky(), sigma=np.zeros(FLUX.shape)))["snr"]).all()

    @pytest.mark.parametrize(
        ("unit", "kind"), [(1e-17, "f8"), (1e-20, "f8"), (1e9, "f8"), (1e-14, "f4"), (1e9, "f4")]
    )  # float32 cannot hold an ivar of 10^39 in the file
    def test_units_that_single_precision_can_hardly_hold(self, tmp_path, unit, kind):
        """Some of the objects in others; each comes out as alone."""
        flux, ivar = FLUX.astype(np.float64), 1e4 * IVAR.astype(np.float64)
        want = read(made.npz(tmp_path, sky(), flux=flux.astype(kind), ivar=ivar.astype(kind)))
        flux[1::2], ivar[1::2] = flux[1::2] * unit, ivar[1::2] / unit**2
        source = open_source(made.npz(tmp_path, sky(), flux=flux.astype(kind), ivar=ivar.astype(kind)), spectra=GRID)
        got, alone = whole(source), whole(source, rows=1)
        assert not got["flags"].any()
        np.testing.assert_allclose(got["snr"], want["snr"], rtol=1e-5)
        for one, other in zip(unit_norm(*got["spectrum"].swapaxes(0, 1)), unit_norm(*want["spectrum"].swapaxes(0, 1))[:2]):
            np.testing.assert_allclose(one, other, rtol=1e-5)
        np.testing.assert_array_equal(alone["spectrum"], got["spectrum"])
        np.testing.assert_array_equal(got["spectrum"][::2], want["spectrum"][::2])

    def test_whole_numbers_of_flux(self, tmp_path):
        flux = np.rint(1000 * FLUX)
        mask = hole(MASK, slice(None), True, slice(300, 320))
        want = read(made.npz(tmp_path, sky(), flux=flux, mask=mask))
        got = read(made.npz(tmp_path, sky(), flux=flux.astype(np.int16), mask=mask))
        np.testing.assert_allclose(got["spectrum"], want["spectrum"], rtol=1e-6)

    @pytest.mark.parametrize(
        ("name", "values", "kept"),
        [
            ("ra", np.arange(6), [0.0, 1, 2, 3, 4, 5]),
            ("dec", np.arange(6, dtype=np.float32), [0.0, 1, 2, 3, 4, 5]),
            ("spectype", np.array([3, 1, 4, 1, 5, 9]), list("314159")),
            ("spectype", np.array([True, False] * 3), ["True", "False"] * 3),
        ],
    )
    def test_numbers_for_positions_and_classes(self, tmp_path, name, values, kept):
        got = read(made.npz(tmp_path, sky(), **{name: values}))[name]
        assert got.tolist() == kept
        assert got.dtype.kind == ("U" if name == "spectype" else "f")

    @pytest.mark.parametrize("ids", [sky().id.astype(np.float64), np.array([True] * 6)])
    def test_ids_that_cannot_be_any(self, tmp_path, ids):
        with pytest.raises(DataError, match="cannot be the id(.|\n)*TARGETID"):
            open_source(made.npz(tmp_path, sky(), object_id=None, TARGETID=ids), spectra=GRID)
        assert read(made.npz(tmp_path, sky(), TARGETID=ids))["object_id"].tolist() == sky().id.tolist()

    def test_more_bytes_than_announced(self, tmp_path):
        path, other = made.npz(tmp_path, sky()), tmp_path / "more.npz"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
            for member in old.namelist():
                new.writestr(member, old.read(member) + (b"more" if member == "ivar.npy" else b""))
        with pytest.raises(DataError, match="more bytes than its header announces"):
            read(other)

    def test_usual_names(self, tmp_path):
        renamed = {"wavelength": None, "z": None, "spectype": None, "object_id": None}
        names = {"wave": FULL, "redshift": sky().z, "cls": sky().spectype, "SPECOBJID": np.array(list("abcdef"))}
        path = made.npz(tmp_path, sky(), **renamed, **names)
        got = read(path)
        assert got["object_id"].tolist() == list("abcdef")
        assert got["z"].tolist() == sky().z.tolist()
        assert got["spectype"].tolist() == sky().spectype.tolist()

    def test_without_ids_rows_are_numbered(self, tmp_path):
        source = open_source(made.npz(tmp_path, sky(), object_id=None), spectra=GRID)
        table = read_table(source, find_roles(source, Data()))
        assert table.ids.tolist() == list(range(6))

    def test_without_redshifts(self, tmp_path):
        path = made.npz(tmp_path, sky(), z=None)
        with pytest.raises(DataError, match="no redshifts(.|\n)*observed"):
            open_source(path, spectra=GRID)
        assert not read(path, OBSERVED)["flags"].any()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"ivar": IVAR[:, :-1]}, "no spectra"),
            ({"mask": MASK[:, :5]}, "no spectra"),
            ({"flux": FLUX[:, 0]}, "no spectra"),
            ({"wavelength": None}, "no spectra(.|\n)*wavelength"),
            ({"flux": None}, "no spectra(.|\n)*flux"),
        ],
    )
    def test_arrays_that_do_not_go_together(self, tmp_path, change, message):
        with pytest.raises(DataError, match=message):
            open_source(made.npz(tmp_path, sky(), **change), format="spectra_npz", spectra=GRID)

    @pytest.mark.parametrize("write", [made.npz, made.mmu])
    def test_cut_files(self, tmp_path, write):
        path = write(tmp_path, sky())
        cut(path)
        with pytest.raises(DataError, match="cannot be read"):
            read(path)

    def test_real_archives(self, shared_data):
        """SDSS galaxies and quasars, LAMOST stars: what has a whole grid passes the cuts; one star is mostly bad."""
        grid = Spectra(low=4000, high=7500, z_min=-0.01)
        for name, rows in (("sdss_raw", 33), ("lamost_dr1", 179), ("desi_edr_raw_3", 3)):
            source = open_source(shared_data / f"spectra/{name}.npz", spectra=grid)
            flags = whole(source)["flags"]
            assert (source.format, len(flags)) == ("spectra_npz", rows)
            assert (flags == 0).sum() == {"sdss_raw": 33, "lamost_dr1": 178, "desi_edr_raw_3": 1}[name]


class TestFlagsColumn:
    SPECTRA = {"object_id": np.arange(4), "z": np.ones(4), "snr": np.ones(4), "spectrum": np.ones((4, 2, 9), np.float32)}

    def roles(self, **changes):
        return find_roles(memory("t", self.SPECTRA | {"flags": np.zeros(4, np.uint32)} | changes), Data())

    def test_is_heeded_beside_a_spectrum(self):
        roles = self.roles()
        assert (roles.flags, roles.kept) == ("flags", ("z", "snr"))

    @pytest.mark.parametrize(
        "changes",
        [
            {"flags": np.zeros(4, np.int64)},
            {"flags": np.zeros(4)},
            {"flags": np.zeros((4, 2), np.uint32)},
            {"spectrum": np.ones((4, 3, 9), np.float32)},
            {"spectrum": np.ones((4, 9), np.float32)},
        ],
    )
    def test_is_not_taken_for_what_it_is_not(self, changes):
        roles = self.roles(**changes)
        assert (roles.flags, roles.kept) == ("", ())

    def test_a_users_own_flags_z_and_snr_are_features(self):
        columns = {"id": np.arange(4), "flags": np.arange(4, dtype=np.uint32), "z": np.ones(4), "snr": np.ones(4)}
        assert find_roles(memory("t", columns), Data()) == ("id", "", "", "", ("flags", "z", "snr"), "", ())

    def test_can_be_ignored(self):
        source = memory("t", self.SPECTRA | {"flags": np.zeros(4, np.uint32)})
        assert find_roles(source, Data(ignore=("flags",))).flags == ""
