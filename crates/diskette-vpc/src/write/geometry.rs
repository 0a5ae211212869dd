//! Cylinders, heads and sectors: the second way in which a footer says how large the disk is.

/// A disk's geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) cylinders: u16,
    pub(super) heads: u8,
    pub(super) sectors_per_track: u8,
}

impl Geometry {
    /// The largest there is. It stands for all disks that are too large for one.
    pub(super) const LARGEST: Self = Self {
        cylinders: 65535,
        heads: 16,
        sectors_per_track: 255,
    };

    /// The largest geometry of all that are not above a number of sectors ("CHS Calculation").
    pub(super) fn below(sectors: u64) -> Self {
        let sectors = sectors.min(Self::LARGEST.sectors());
        let (tracks, heads, sectors_per_track) = tracks(sectors);
        Self {
            cylinders: u16::try_from(tracks / u64::from(heads)).unwrap_or(u16::MAX),
            heads,
            sectors_per_track,
        }
    }

    /// The smallest geometry of the rule that has at least so many sectors; [`LARGEST`](Self::LARGEST) where none has.
    pub(super) fn above(sectors: u64) -> Self {
        // A cylinder has at most 16 * 255 sectors: the search is short.
        let mut asked = sectors;
        loop {
            let geometry = Self::below(asked);
            if geometry.sectors() >= sectors || geometry == Self::LARGEST {
                return geometry;
            }
            asked += 1;
        }
    }

    /// How many sectors that are.
    pub(super) fn sectors(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors_per_track)
    }
}

/// Tracks of a disk, its heads, and the sectors of a track.
fn tracks(sectors: u64) -> (u64, u8, u8) {
    if sectors >= 65535 * 16 * 63 {
        return (sectors / 255, 16, 255);
    }
    let tracks = sectors / 17;
    let heads = u8::try_from(tracks.div_ceil(1024).max(4)).unwrap_or(u8::MAX);
    if heads <= 16 && tracks < u64::from(heads) * 1024 {
        return (tracks, heads, 17);
    }
    let tracks = sectors / 31;
    if tracks < 16 * 1024 {
        return (tracks, 16, 31);
    }
    (sectors / 63, 16, 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What qemu-img 10.0.2 makes of these sizes in MiB.
    #[test]
    fn geometries_are_qemu_imgs() {
        for (mib, size, geometry) in [
            (1, 1_079_296, (31, 4, 17)),
            (10, 10_514_432, (302, 4, 17)),
            (100, 104_865_792, (1004, 12, 17)),
            (504, 528_482_304, (1024, 16, 63)),
            (1 << 10, 1_073_995_776, (2081, 16, 63)),
            (2 << 10, 2_147_991_552, (4162, 16, 63)),
            (8 << 10, 8_590_417_920, (16645, 16, 63)),
            (32 << 10, 34_361_303_040, (16449, 16, 255)),
            (127 << 10, 136_365_219_840, (65279, 16, 255)),
        ] {
            let found = Geometry::above(mib << 11);
            let Geometry {
                cylinders,
                heads,
                sectors_per_track,
            } = found;
            assert_eq!((cylinders, heads, sectors_per_track), geometry, "{mib} MiB");
            assert_eq!(found.sectors() * 512, size, "{mib} MiB");
        }
        assert_eq!(Geometry::above(128 << 21), Geometry::LARGEST);
    }

    #[test]
    fn no_geometry_is_above_what_it_is_made_for() {
        for sectors in [
            0,
            1,
            17,
            68,
            69_631,
            69_632,
            278_528,
            507_904,
            66_059_280,
            1 << 40,
        ] {
            assert!(Geometry::below(sectors).sectors() <= sectors, "{sectors}");
        }
    }
}
