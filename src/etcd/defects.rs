//! The known defects of etcd releases: the only table, with its sources.
//!
//! A number is the patch release with the fix; a minor release that is not named has no known defect. "PR" is a pull request of
//! github.com/etcd-io/etcd, as in etcd's CHANGELOG; GHSA and CVE are security advisories.

use crate::core::release::Release;

/// No patch of that minor release fixes it.
const NEVER: u32 = u32::MAX;

/// What a defect affects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cost {
    /// Acknowledged writes, or members whose data differs.
    Data,
    /// The membership, and who votes.
    Membership,
    /// Who can read, write, or interfere.
    Security,
}

/// One defect, and its fixes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Defect {
    /// `(minor, patch)` of etcd 3: this minor release has it in every patch before that one.
    pub mended: &'static [(u32, u32)],
    pub cost: Cost,
    /// The text after "etcd 3.5.1".
    pub what: &'static str,
    pub source: &'static str,
}

/// The worst first: of several defects a release is reported with the first.
pub const DEFECTS: &[Defect] = &[
    Defect {
        mended: &[(5, 3)],
        cost: Cost::Data,
        what: "loses committed transactions when killed under load",
        source: "etcd#13766; Documentation/postmortems/v3.5-data-inconsistency.md; PR 13933",
    },
    Defect {
        mended: &[(4, 21), (5, 5)],
        cost: Cost::Data,
        what: "acknowledges writes of a single member before they are on disk",
        source: "PR 14423, 14424",
    },
    Defect {
        mended: &[(5, 6)],
        cost: Cost::Data,
        what: "may differ from the other members after a crash during a defragmentation",
        source: "PR 14733",
    },
    Defect { mended: &[(5, 17)], cost: Cost::Data, what: "may apply half of a transaction", source: "PR 18799" },
    Defect {
        mended: &[(4, 38), (5, 23), (6, 5)],
        cost: Cost::Data,
        what: "may damage its data when a snapshot arrives during a defragmentation",
        source: "PR 20659, 20653, 20650",
    },
    Defect {
        mended: &[(4, 42), (5, 28), (6, 9)],
        cost: Cost::Data,
        what: "may answer linearizable reads with old values after a pause or a change of leader",
        source: "PR 21385, 21387, 21378, 21423, 21421, 21417",
    },
    Defect {
        mended: &[(5, 20)],
        cost: Cost::Membership,
        what: "does not store a learner's promotion, which blocks the upgrade to 3.6",
        source: "etcd#19557; PR 19563; measured on 3.5.1, 3.5.16 and 3.5.19",
    },
    Defect {
        mended: &[(5, 24)],
        cost: Cost::Membership,
        what: "passes on promotions that an older release did not store",
        source: "PR 20797",
    },
    Defect {
        mended: &[(6, 4)],
        cost: Cost::Membership,
        what: "may not start over a learner's promotion in its log",
        source: "PR 20387",
    },
    Defect {
        mended: &[(5, 26)],
        cost: Cost::Membership,
        what: "keeps removed members, which reappear in 3.6",
        source: "PR 20995",
    },
    Defect {
        mended: &[(4, NEVER), (5, 31), (6, 12)],
        cost: Cost::Membership,
        what: "stores a learner as a voter when its address changes",
        source: "etcd#21694; PR 21737, 21736; measured on 3.4.23, 3.5.1, 3.5.30 and 3.6.11",
    },
    Defect {
        mended: &[(4, 42), (5, 28), (6, 9)],
        cost: Cost::Security,
        what: "lets callers past authentication in several calls",
        source: "CVE-2026-33413 (GHSA-q8m4-xhhv-38mg), CVE-2026-33343 (GHSA-rfx7-8w68-q57q)",
    },
    Defect {
        mended: &[(4, 44), (5, 30), (6, 11)],
        cost: Cost::Security,
        what: "lets a transaction's puts read what their user may not",
        source: "PR 21683, 21682, 21681",
    },
    Defect {
        mended: &[(5, 32), (6, 13)],
        cost: Cost::Security,
        what: "accepts revoked certificates if HTTP and gRPC have separate ports",
        source: "GHSA-3wh4-j44w-pg92",
    },
    Defect {
        mended: &[(5, 33), (6, 14), (7, 1)],
        cost: Cost::Security,
        what: "lets a user who may read one key watch all later keys",
        source: "GHSA-xg4h-6gfc-h4m8",
    },
    Defect {
        mended: &[(5, 33), (6, 14), (7, 1)],
        cost: Cost::Security,
        what: "can be blocked by connections that never complete their TLS handshake",
        source: "GHSA-6vch-q96h-7gc3",
    },
];

/// The last minor release of etcd 3 that gets no more patches: 3.4.45 of 2026-06-01 was its last (CHANGELOG-3.4.md).
const LAST_UNSUPPORTED: u32 = 4;
/// The recommended releases, one for each minor: they have no defect of the table.
const RECOMMENDED: &[(u32, u32)] = &[(5, 33), (6, 14), (7, 1)];

/// All known defects of this release, the worst first.
pub fn of(release: Release) -> impl Iterator<Item = &'static Defect> {
    let has = move |(minor, patch): &(u32, u32)| release.minor == *minor && release.patch < *patch;
    DEFECTS.iter().filter(move |defect| release.major == 3 && defect.mended.iter().any(has))
}

/// The line for the start, if the release has a defect.
pub fn warning(release: Release) -> Option<String> {
    let is_unsupported = release.major < 3 || (release.major == 3 && release.minor <= LAST_UNSUPPORTED);
    let known: Vec<_> = of(release).collect();
    let first = match (known.first(), is_unsupported) {
        (None, false) => return None,
        (None, true) => "gets no more patches".to_owned(),
        (Some(worst), false) => worst.what.to_owned(),
        (Some(worst), true) => format!("gets no more patches, and {}", worst.what),
    };
    let security = known.iter().filter(|defect| defect.cost == Cost::Security).count();
    let others = match (known.len(), security) {
        (0 | 1, _) => String::new(),
        (all, 0) => format!(" ({all} such defects are known)"),
        (all, security) => format!(" ({all} such defects are known, {security} of them security defects)"),
    };
    // From a release without further patches, upgrade to the oldest that has them: upgrades take one minor release at a time.
    let target = RECOMMENDED.iter().find(|(minor, _)| *minor >= release.minor).or(RECOMMENDED.last());
    let target = target.map(|(minor, patch)| format!("; run 3.{minor}.{patch} or later")).unwrap_or_default();
    Some(format!("etcd {release} {first}{others}{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<String> {
        warning(Release::parse(text).unwrap())
    }

    #[test]
    fn the_worst_is_named_with_the_way_out() {
        let line = said("3.5.1").unwrap();
        assert!(line.starts_with("etcd 3.5.1 loses committed transactions when killed under load ("), "{line}");
        assert!(line.ends_with("security defects); run 3.5.33 or later"), "{line}");
        assert!(said("3.4.23").unwrap().starts_with("etcd 3.4.23 gets no more patches, and "));
        assert!(said("3.4.45").unwrap().ends_with("when its address changes; run 3.5.33 or later"));
        assert!(said("3.3.25").unwrap().ends_with("run 3.5.33 or later"));
        assert!(said("3.6.13").unwrap().contains("watch all later keys"));
        assert!(said("3.7.0").unwrap().ends_with("run 3.7.1 or later"));
    }

    #[test]
    fn nothing_is_said_of_what_is_recommended_nor_of_what_is_newer() {
        for (minor, patch) in RECOMMENDED {
            for release in [format!("3.{minor}.{patch}"), format!("3.{minor}.{}", patch + 1)] {
                assert_eq!(said(&release), None, "{release}");
            }
        }
        assert_eq!(said("3.8.0"), None);
        assert_eq!(said("4.0.0"), None);
    }

    #[test]
    fn the_last_patch_of_the_table_is_the_recommended_one() {
        for (minor, patch) in RECOMMENDED {
            let last =
                DEFECTS.iter().flat_map(|defect| defect.mended).filter(|(m, _)| m == minor).map(|(_, p)| p).max();
            assert_eq!(last, Some(patch), "3.{minor}");
        }
    }

    #[test]
    fn every_defect_has_a_source() {
        for defect in DEFECTS {
            let named = ["PR ", "etcd#", "GHSA-", "CVE-"].iter().any(|word| defect.source.contains(word));
            assert!(named && !defect.mended.is_empty(), "{}", defect.what);
        }
    }
}
