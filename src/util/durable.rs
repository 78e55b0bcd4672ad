//! Durable writes: after a power failure at any moment, a file is the old or the new one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// What link(2) says where it is not supported.
const NO_LINKS: [Errno; 3] = [Errno::EPERM, Errno::EOPNOTSUPP, Errno::ENOSYS];

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readers {
    /// As the process's umask allows.
    ByUmask,
    /// Only its owner, from the first byte on.
    Owner,
}

/// Replaces a file, or creates it, through a draft beside it (its name and `.new`). After a power failure at any moment the
/// file is the old or the new one; once this has returned it is the new one.
///
/// # Errors
/// The kernel refuses. The old file stays; only if the last step failed, the directory's sync, it may already be the new one.
pub fn replace(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    replace_through(&draft_of(path), path, bytes, readers)
}

/// The same through a draft of another name in the same directory, where others may write the file as well: of a draft that two write, neither's bytes are left.
///
/// # Errors
/// As [`replace`]. The draft may stay.
pub fn replace_through(draft: &Path, path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    replace_on(&Kernel, draft, path, bytes, readers)
}

/// Creates a file through such a draft, unless one is there: whether it was created. After a power failure at any moment the file is whole or not there; once this has
/// returned it is there, this one or the one that was there before.
///
/// # Errors
/// The kernel refuses. Only if the last step failed, the directory's sync, the file may be there. The draft may stay.
pub fn create_through(draft: &Path, path: &Path, bytes: &[u8], readers: Readers) -> io::Result<bool> {
    create_on(&Kernel, draft, path, bytes, readers)
}

/// As [`replace_on`]; link(2) does not replace what is there, rename(2) does. (renameat2(2) would not, but is missing in NFS.)
fn create_on<D: Disk>(disk: &D, draft: &Path, path: &Path, bytes: &[u8], readers: Readers) -> io::Result<bool> {
    let file = disk.write(draft, bytes, readers)?;
    disk.sync(&file)?;
    let is_new = disk.link(draft, path);
    disk.remove(draft)?;
    let is_new = is_new?;
    disk.sync_dir(directory_of(path))?;
    Ok(is_new)
}

/// Gives a file its name, beside its own: one that was written and synced under another one.
///
/// # Errors
/// The kernel refuses; the name may be there then.
pub fn adopt(draft: &Path, path: &Path) -> io::Result<()> {
    fs::rename(draft, path)?;
    sync_dir(directory_of(path))
}

/// The end of a draft's name.
pub const DRAFT: &str = ".new";

/// Under which name a file is written before it has its own.
pub fn draft_of(path: &Path) -> PathBuf {
    let mut draft = path.as_os_str().to_owned();
    draft.push(DRAFT);
    PathBuf::from(draft)
}

/// The steps, in an order that must not change: a name for bytes that are not on disk is half a file after a power failure, and
/// a name that is not on disk is the old file (fsync(2), rename(2)).
fn replace_on<D: Disk>(disk: &D, draft: &Path, path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let file = disk.write(draft, bytes, readers)?;
    disk.sync(&file)?;
    disk.rename(draft, path)?;
    disk.sync_dir(directory_of(path))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The calls to a file system; in a test it may lose power in between.
trait Disk {
    type File;
    /// Writes a file of its own; truncates what was there first.
    fn write(&self, path: &Path, bytes: &[u8], readers: Readers) -> io::Result<Self::File>;
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// A second name; `false`: the name is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<bool>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

struct Kernel;

impl Disk for Kernel {
    type File = File;

    fn write(&self, path: &Path, bytes: &[u8], readers: Readers) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let mut file = match readers {
            Readers::ByUmask => options.open(path)?,
            Readers::Owner => {
                let file = options.mode(0o600).open(path)?;
                // A draft that a crash left may have another mode.
                file.set_permissions(Permissions::from_mode(0o600))?;
                file
            }
        };
        file.write_all(bytes)?;
        Ok(file)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<bool> {
        match fs::hard_link(from, to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            // A file system without links (FAT, some shares): nobody else may create it between these two.
            Err(error) if NO_LINKS.contains(&error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)) => {
                match to.symlink_metadata() {
                    Ok(_) => Ok(false),
                    Err(_) => fs::rename(from, to).map(|()| true),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_dir(dir)
    }
}

/// Makes a directory's entries durable.
///
/// # Errors
/// The kernel refuses.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a directory and its parents, durably: a name is stored in the parent (fsync(2)). An existing directory may be from a
/// start that a power failure ended before its parent was synced, so its own parent is synced in any case.
///
/// # Errors
/// The kernel refuses. A parent that we may not read is left to its owner.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    let parents: Vec<&Path> = keepers(dir, Path::exists).collect();
    fs::create_dir_all(dir)?;
    for parent in parents {
        match sync_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// The directories that store the names of this one and of its parents that must still be created.
fn keepers(dir: &Path, exists: impl Fn(&Path) -> bool) -> impl Iterator<Item = &Path> {
    let missing = dir.ancestors().take_while(|above| !exists(above)).count().max(1);
    dir.ancestors().skip(1).take(missing).map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;
    use crate::util::clock;

    fn scratch() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("etcd-muster-durable-{:016x}", clock::random()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A disk that keeps only what was synced for sure. It loses power before its n-th step.
    struct Model {
        before: usize,
        done: RefCell<Vec<Done>>,
    }

    #[derive(Clone, PartialEq, Eq, Debug)]
    enum Done {
        Write(PathBuf),
        Sync(PathBuf),
        Rename(PathBuf, PathBuf),
        Link(PathBuf, PathBuf),
        Remove(PathBuf),
        SyncDir(PathBuf),
    }

    impl Model {
        fn go(&self, step: Done) -> io::Result<()> {
            let mut done = self.done.borrow_mut();
            if done.len() == self.before {
                return Err(Errno::EIO.into());
            }
            done.push(step);
            Ok(())
        }

        /// What the file may hold after the power cut: bytes that weren't synced may be there, be missing, or be there by half, and of
        /// names that weren't synced each may or may not be the new one.
        fn may_hold(&self, path: &Path) -> BTreeSet<&'static str> {
            let done = self.done.borrow();
            let at = |step: &Done| done.iter().position(|other| other == step);
            let draft = PathBuf::from(format!("{}.new", path.display()));
            let renamed = at(&Done::Rename(draft.clone(), path.to_owned()));
            let renamed = renamed.or(at(&Done::Link(draft.clone(), path.to_owned())));
            let name_is_kept = at(&Done::SyncDir(path.parent().unwrap().to_owned())) > renamed && renamed.is_some();
            let mut held = BTreeSet::new();
            if !name_is_kept {
                held.insert("old");
            }
            if renamed.is_some() {
                held.insert("new");
                if at(&Done::Sync(draft)).is_none_or(|synced| Some(synced) > renamed) {
                    held.extend(["", "half"]);
                }
            }
            held
        }
    }

    impl Disk for Model {
        type File = PathBuf;

        fn write(&self, path: &Path, _: &[u8], _: Readers) -> io::Result<PathBuf> {
            self.go(Done::Write(path.to_owned())).map(|()| path.to_owned())
        }

        fn sync(&self, file: &PathBuf) -> io::Result<()> {
            self.go(Done::Sync(file.clone()))
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.go(Done::Rename(from.to_owned(), to.to_owned()))
        }

        fn link(&self, from: &Path, to: &Path) -> io::Result<bool> {
            self.go(Done::Link(from.to_owned(), to.to_owned())).map(|()| true)
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            self.go(Done::Remove(path.to_owned()))
        }

        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            self.go(Done::SyncDir(dir.to_owned()))
        }
    }

    #[test]
    fn a_power_cut_between_any_two_steps_leaves_the_old_or_the_new_file() {
        let path = Path::new("/d/ledger.json");
        for before in 0..=4 {
            let disk = Model { before, done: RefCell::default() };
            let outcome = replace_on(&disk, &draft_of(path), path, b"new", Readers::ByUmask);
            let held = disk.may_hold(path);
            assert!(held.iter().all(|held| ["old", "new"].contains(held)), "{held:?} after {:?}", disk.done);
            assert_eq!(outcome.is_ok(), before == 4, "no step is left out, and none goes on after one that failed");
            if outcome.is_ok() {
                assert_eq!(held, ["new"].into(), "what is said to be on disk is");
            }
        }
    }

    #[test]
    fn a_power_cut_while_a_file_is_created_leaves_all_of_it_or_none() {
        let path = Path::new("/d/manifest.json");
        for before in 0..=5 {
            let disk = Model { before, done: RefCell::default() };
            let outcome = create_on(&disk, &draft_of(path), path, b"new", Readers::Owner);
            let held = disk.may_hold(path);
            assert!(held.iter().all(|held| ["old", "new"].contains(held)), "{held:?} after {:?}", disk.done);
            assert_eq!(outcome.is_ok(), before == 5);
            if outcome.is_ok() {
                assert_eq!(held, ["new"].into(), "what is said to be on disk is");
            }
        }
    }

    #[test]
    fn what_is_there_is_not_replaced_by_what_is_created() {
        let path = scratch().join("manifest.json");
        let create = |bytes: &[u8]| create_through(&draft_of(&path), &path, bytes, Readers::Owner).unwrap();
        assert!(create(b"first"));
        assert!(!create(b"second"));
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert!(!draft_of(&path).exists());
    }

    /// The model's own test: it tells each wrong order.
    #[test]
    fn the_model_shows_what_a_wrong_order_may_leave() {
        let (path, draft, dir) = (Path::new("/d/f"), PathBuf::from("/d/f.new"), PathBuf::from("/d"));
        let left = |done: &[Done]| Model { before: 9, done: RefCell::new(done.to_vec()) }.may_hold(path);
        let rename = Done::Rename(draft.clone(), path.to_owned());
        let (sync, keep) = (Done::Sync(draft), Done::SyncDir(dir));
        assert!(left(&[rename.clone(), keep.clone()]).contains("half"), "never synced");
        assert!(left(&[rename.clone(), sync.clone(), keep.clone()]).contains("half"), "synced too late");
        assert!(left(&[sync.clone(), rename.clone()]).contains("old"), "its name was not kept");
        assert!(left(&[sync.clone(), keep.clone(), rename.clone()]).contains("old"), "its name was kept too early");
        assert_eq!(left(&[sync, rename, keep]), ["new"].into());
    }

    /// Neither a device nor /proc can be synced: only who really asks the kernel to hears of it.
    #[test]
    fn the_kernel_is_really_asked_to_sync() {
        let errno = |outcome: io::Result<()>| outcome.unwrap_err().raw_os_error().map(Errno::from_raw);
        assert_eq!(errno(Kernel.sync(&File::open("/dev/null").unwrap())), Some(Errno::EINVAL));
        assert_eq!(errno(Kernel.sync_dir(Path::new("/proc"))), Some(Errno::EINVAL));
        assert_eq!(errno(make_dir(Path::new("/proc/self"))), Some(Errno::EINVAL), "that which is there already");
        let dir = scratch();
        let path = dir.join("file");
        replace(&path, b"old", Readers::ByUmask).unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.join("file.new")).unwrap();
        assert_eq!(errno(replace(&path, b"new", Readers::ByUmask)), Some(Errno::EINVAL));
        assert_eq!(fs::read(&path).unwrap(), b"old", "what can't be synced takes nobody's place");
    }

    #[test]
    fn a_file_for_its_owner_alone_stays_so_whatever_draft_a_crash_left() {
        let path = scratch().join("key");
        let draft = PathBuf::from(format!("{}.new", path.display()));
        fs::write(&draft, "a longer draft than the file that is to be").unwrap();
        fs::set_permissions(&draft, Permissions::from_mode(0o644)).unwrap();
        replace(&path, b"secret", Readers::Owner).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert!(!draft.exists());
    }

    #[test]
    fn the_parents_of_new_directories_are_synced() {
        let there = |above: &Path| above == Path::new("/a") || above == Path::new("/");
        let of = |dir: &'static str| keepers(Path::new(dir), there).map(Path::to_owned).collect::<Vec<_>>();
        assert_eq!(of("/a/b/c"), [Path::new("/a/b"), Path::new("/a")]);
        assert_eq!(of("/a"), [Path::new("/")], "it may be there and not yet kept");
        assert_eq!(of("/"), Vec::<PathBuf>::new());
        let relative = keepers(Path::new("b"), |above| above.as_os_str().is_empty());
        assert_eq!(relative.collect::<Vec<_>>(), [Path::new(".")]);
        let new = scratch().join("x/y");
        make_dir(&new).unwrap();
        make_dir(&new).unwrap();
        assert!(new.is_dir());
    }
}
