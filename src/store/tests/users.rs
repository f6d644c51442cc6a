//! Users: what is written, what is refused, what is left alone.

use std::os::unix::fs::PermissionsExt as _;

use admin::{Expiration, Patch};

use super::*;

fn new(name: &str) -> CreateUser {
    CreateUser {
        username: name.to_owned(),
        secret: None,
        user_ad_tag: None,
        max_tcp_conns: None,
        expiration: None,
        data_quota_bytes: None,
        max_unique_ips: None,
        rate_limit_up_bps: None,
        rate_limit_down_bps: None,
        enabled: None,
    }
}

fn secret(text: &str) -> SecretText {
    SecretText::parse(text).unwrap()
}

const CY: &str = "cCcC0000000000000000000000000003";
const TAG: &str = "0123456789abcdef0123456789ABCDEF";

#[test]
fn create_writes_what_was_given_as_it_was_given() {
    let place = Place::new(&minimal());
    let full = CreateUser {
        secret: Some(secret(CY)),
        user_ad_tag: Some(TAG.to_owned()),
        max_tcp_conns: Some(0),
        expiration: Expiration::parse("2035-01-02T03:04:05.5+03:00"),
        data_quota_bytes: Some(9_007_199_254_740_993),
        max_unique_ips: Some(3),
        rate_limit_up_bps: Some(1000),
        enabled: Some(false),
        ..new("c.y")
    };
    let created = place.store.create(&full, None).unwrap();
    assert_eq!(created.secret.as_str(), CY);
    let user = created.user;
    assert_eq!(user.user_ad_tag.as_deref(), Some(TAG));
    assert_eq!(
        (user.max_tcp_conns, user.max_unique_ips),
        (Some(0), Some(3))
    );
    assert_eq!(
        (user.rate_limit_up_bps, user.rate_limit_down_bps),
        (Some(1000), None)
    );
    assert_eq!(user.expiration, full.expiration);
    assert!(!user.enabled);
    let added = format!("bob = \"{BOB}\"\n\"c.y\" = \"{CY}\"\n# end\n");
    let tables = format!(
        "\n[access.user_ad_tags]\n\"c.y\" = \"{TAG}\"\n\n[access.user_max_tcp_conns]\n\"c.y\" = 0\n\n\
         [access.user_expirations]\n\"c.y\" = \"2035-01-02T00:04:05.5Z\"\n\n\
         [access.user_data_quota]\n\"c.y\" = 9007199254740993\n\n\
         [access.user_max_unique_ips]\n\"c.y\" = 3\n\n[access.user_enabled]\n\"c.y\" = false\n\n\
         [access.user_rate_limits]\n\"c.y\" = {{ up_bps = 1000, down_bps = 0 }}\n"
    );
    let text = minimal().replace(&format!("bob = \"{BOB}\"\n# end\n"), &(added + &tables));
    assert_eq!(place.text(), text);
    place.expect_clean(1);
    let listed = place.store.users().unwrap();
    assert_eq!(listed.revision, created.revision);
    assert_eq!(listed.users.len(), 3);
    // The next one finds the tables there.
    let again = CreateUser {
        username: "d".to_owned(),
        secret: None,
        ..full
    };
    let drawn = place.store.create(&again, None).unwrap().secret;
    assert!(
        drawn
            .as_str()
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    );
    assert_eq!(place.text().matches('[').count(), text.matches('[').count());
    // Deleting both leaves empty tables.
    for name in ["c.y", "d"] {
        place.store.delete(name, None).unwrap();
    }
    let lines = place.text();
    assert!(!lines.contains("c.y") && lines.starts_with(&minimal()));
    place.expect_clean(1);
}

#[test]
fn refusals_leave_the_file_alone() {
    let place = Place::new(&minimal());
    let store = &place.store;
    let now = store.revision().unwrap().0;
    let (stale, now) = (Some("0"), Some(now.as_str()));
    let patch = PatchUser {
        max_tcp_conns: Patch::Set(1),
        ..PatchUser::default()
    };
    use StoreError::{RevisionConflict, UserExists, UserNotFound};
    assert_eq!(
        store.create(&new("al"), stale).unwrap_err(),
        RevisionConflict
    );
    assert_eq!(store.create(&new("al"), now).unwrap_err(), UserExists);
    assert_eq!(
        store.patch("x", &patch, stale).unwrap_err(),
        RevisionConflict
    );
    assert_eq!(store.patch("x", &patch, now).unwrap_err(), UserNotFound);
    assert_eq!(
        store.rotate_secret("x", None, now).unwrap_err(),
        UserNotFound
    );
    assert_eq!(store.set_enabled("x", true, now).unwrap_err(), UserNotFound);
    assert_eq!(store.reset_quota("x", now).unwrap_err(), UserNotFound);
    assert_eq!(store.delete("x", stale).unwrap_err(), RevisionConflict);
    assert_eq!(store.delete("x", now).unwrap_err(), UserNotFound);
    let taken = CreateUser {
        secret: Some(secret(&AL.to_ascii_uppercase())),
        ..new("cy")
    };
    let StoreError::Invalid(text) = store.create(&taken, now).unwrap_err() else {
        panic!("a secret of another user was taken");
    };
    assert_eq!(
        text,
        "access.users.cy has the same secret as access.users.al; every user needs its own"
    );
    assert_eq!(place.text(), minimal());
    assert!(place.process.applied.lock().unwrap().is_empty());
    store.delete("al", now).unwrap();
    assert_eq!(store.delete("bob", None).unwrap_err(), StoreError::LastUser);
}

#[test]
fn patch_merges_field_by_field() {
    let place = Place::new(&minimal());
    let patch = |patch: PatchUser| place.store.patch("bob", &patch, None).unwrap().user;
    let keep = PatchUser::default;
    let before = place.store.revision().unwrap();
    let same = place.store.patch("bob", &keep(), None).unwrap();
    assert_eq!((same.revision, place.text()), (before, minimal()));
    let up = patch(PatchUser {
        rate_limit_up_bps: Patch::Set(1),
        ..keep()
    });
    let both = patch(PatchUser {
        rate_limit_down_bps: Patch::Set(2),
        ..keep()
    });
    let down = patch(PatchUser {
        rate_limit_up_bps: Patch::Remove,
        ..keep()
    });
    let none = patch(PatchUser {
        rate_limit_down_bps: Patch::Set(0),
        ..keep()
    });
    let rates = [up, both, down, none].map(|u| (u.rate_limit_up_bps, u.rate_limit_down_bps));
    assert_eq!(
        rates,
        [
            (Some(1), None),
            (Some(1), Some(2)),
            (None, Some(2)),
            (None, None)
        ]
    );
    assert_eq!(place.text(), minimal() + "\n[access.user_rate_limits]\n");
    let off = patch(PatchUser {
        enabled: Patch::Set(false),
        secret: Some(secret(CY)),
        ..keep()
    });
    assert!(!off.enabled && off.links.tls[0].contains(&format!("ee{}", CY.to_lowercase())));
    let on = patch(PatchUser {
        enabled: Patch::Remove,
        ..keep()
    });
    assert!(on.enabled);
    let text = minimal().replace(BOB, CY);
    assert_eq!(
        place.text(),
        text + "\n[access.user_rate_limits]\n\n[access.user_enabled]\n"
    );
    place.expect_clean(1);
}

#[test]
fn enabling_twice_writes_once() {
    let explicit = minimal() + "[access.user_enabled]\nal = true # said\n";
    let place = Place::new(&explicit);
    let set = |name, enabled| {
        place
            .store
            .set_enabled(name, enabled, None)
            .unwrap()
            .user
            .enabled
    };
    assert!(set("al", true) && set("bob", true));
    assert_eq!(place.text(), explicit);
    assert!(!set("al", false) && !set("al", false));
    assert_eq!(place.text(), explicit.replace("true #", "false #"));
    assert!(set("al", true));
    assert_eq!(place.text(), minimal() + "[access.user_enabled]\n");
    assert_eq!(place.process.applied.lock().unwrap().len(), 2);
}

#[test]
fn other_spellings_stay() {
    let text = format!(
        "\u{feff}access.users = {{ al = '{AL}', \"b.c\" = \"{BOB}\" }} # users\r\n\
         access.user_expirations.al = 2030-01-01T00:00:00Z\r\n\
         access.user_rate_limits.al.up_bps = 5\r\n\
         access.user_new_kind = {{ al = 1 }}\r\n\
         access.user_source_deny.al = [\"192.0.2.0/24\"]\r\n# end"
    );
    let place = Place::new(&text);
    let patch = PatchUser {
        expiration: Patch::Set(Expiration::parse("2031-02-03T04:05:06+01:00").unwrap()),
        rate_limit_down_bps: Patch::Set(7),
        ..PatchUser::default()
    };
    let changed = place.store.patch("al", &patch, None).unwrap();
    assert_eq!(changed.secret.as_str(), AL);
    let expected = text
        .replace("2030-01-01T00:00:00Z", "2031-02-03T03:05:06Z")
        .replace(
            "up_bps = 5\r\n",
            "up_bps = 5\r\naccess.user_rate_limits.al.down_bps = 7\r\n",
        );
    assert_eq!(place.text(), expected);
    place.expect_clean(1);
    place.store.delete("al", None).unwrap();
    let left = format!(
        "\u{feff}access.users = {{ \"b.c\" = \"{BOB}\" }} # users\r\n\
         access.user_new_kind = {{  }}\r\n# end"
    );
    assert_eq!(place.text(), left);
    place.expect_clean(1);
}

#[test]
fn included_users_are_not_touched() {
    let main = minimal() + "include = \"more.toml\"\n";
    let more = format!("cy = \"{CY}\"\n[access.user_max_tcp_conns]\ncy = 1\n");
    let place = Place::with(&main, &[("more.toml", &more)]);
    let listed = place.store.users().unwrap().users;
    assert_eq!(listed[2].max_tcp_conns, Some(1));
    let elsewhere = |error: StoreError| match error {
        StoreError::Invalid(text) => assert!(text.contains("in an included file"), "{text}"),
        other => panic!("{other}"),
    };
    let limit = PatchUser {
        max_tcp_conns: Patch::Set(2),
        ..PatchUser::default()
    };
    elsewhere(place.store.rotate_secret("cy", None, None).unwrap_err());
    elsewhere(place.store.delete("cy", None).unwrap_err());
    elsewhere(place.store.patch("cy", &limit, None).unwrap_err());
    // Its table is over there.
    elsewhere(place.store.patch("bob", &limit, None).unwrap_err());
    assert_eq!(place.text(), main);
    place.store.create(&new("dora"), None).unwrap();
    place.store.delete("dora", None).unwrap();
    assert_eq!(place.text(), main);
    // A change over there shows.
    fs::write(place.dir.path().join("more.toml"), "").unwrap();
    assert_eq!(place.store.users().unwrap().users.len(), 2);
    place.expect_clean(2);
}

#[test]
fn reads_follow_the_file() {
    let place = Place::new(&minimal());
    let store = &place.store;
    let digest = |text: &str| config::revision(text.as_bytes());
    assert_eq!(store.revision().unwrap().0, digest(&minimal()));
    // Same size, same inode, and within the granularity of times.
    for text in [minimal().replace("# top", "# pot"), minimal()] {
        fs::write(&place.path, &text).unwrap();
        assert_eq!(store.revision().unwrap().0, digest(&text));
        assert_eq!(store.users().unwrap().revision.0, digest(&text));
    }
    std::thread::sleep(std::time::Duration::from_millis(150));
    store.users().unwrap();
    fs::write(&place.path, minimal().replace("bob", "abe")).unwrap();
    assert_eq!(store.users().unwrap().users[1].username, "abe");
    fs::write(&place.path, "[access.users").unwrap();
    assert!(store.revision().is_ok());
    assert_eq!(store.users().unwrap_err(), StoreError::Unparsable);
    assert_eq!(
        store.delete("al", None).unwrap_err(),
        StoreError::Unparsable
    );
    fs::remove_file(&place.path).unwrap();
    assert_eq!(store.revision().unwrap_err(), StoreError::Unreadable);
    assert_eq!(store.users().unwrap_err(), StoreError::Unreadable);
    fs::write(&place.path, minimal()).unwrap();
    assert_eq!(store.users().unwrap().users.len(), 2);
}

#[test]
fn what_the_process_has_read_is_not_read_again() {
    for text in [minimal(), format!("\u{feff}{}", minimal())] {
        let place = Place::new(&text);
        let loaded = config::load(&place.path).unwrap();
        place.store.start_with(&loaded);
        let view = place.store.disk.view().unwrap();
        assert_eq!(&*view.bytes, text.as_bytes());
        assert_eq!(view.loaded.warnings, loaded.warnings);
        place.store.delete("al", None).unwrap();
        place.expect_clean(1);
        // An older one is not believed.
        place.store.start_with(&loaded);
        assert!(place.store.disk.view().unwrap().user("al").is_err());
    }
}

#[test]
fn one_of_several_writers_with_the_same_revision_wins() {
    let place = Place::new(&minimal());
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o640)).unwrap();
    let revision = place.store.revision().unwrap().0;
    let wins: usize = std::thread::scope(|scope| {
        let rotate = || {
            let rotated = place.store.rotate_secret("al", None, Some(&revision));
            usize::from(rotated.is_ok())
        };
        let all: Vec<_> = (0..8).map(|_| scope.spawn(rotate)).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(wins, 1);
    let mode = fs::metadata(&place.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    place.expect_clean(1);
}

#[test]
fn used_quotas_are_the_processs() {
    let place = Place::new(&(minimal() + "disk-full = \"00000000000000000000000000000001\"\n"));
    let reset = place.store.reset_quota("al", None).unwrap();
    assert_eq!(reset.last_reset_epoch_secs, 1_700_000_000);
    assert_eq!(reset.revision, place.store.revision().unwrap());
    let failed = place.store.reset_quota("disk-full", None).unwrap_err();
    assert!(matches!(failed, StoreError::Unwritable(_)), "{failed}");
}

/// CPU time of this thread.
fn on_cpu() -> std::time::Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    std::time::Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// How long changes of a file with 10,000 users take; run with `--release --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn measure_ten_thousand_users() {
    let mut text = minimal();
    text = text.replace("# end\n", "");
    for n in 0..10_000 {
        text += &format!("user-{n:05} = \"{n:032x}\" # number {n}\n").replace("= \"0", "= \"c");
    }
    for table in [
        "user_max_tcp_conns",
        "user_data_quota",
        "user_max_unique_ips",
    ] {
        text += &format!("\n[access.{table}]\n");
        for n in 0..10_000 {
            text += &format!("user-{n:05} = {}\n", n + 1);
        }
    }
    println!("{} bytes", text.len());
    let place = Place::new(&text);
    let time = |what: &str, run: &mut dyn FnMut(usize)| {
        let mut times = Vec::new();
        for n in 0..20 {
            let (began, cpu) = (std::time::Instant::now(), on_cpu());
            run(n);
            times.push((on_cpu() - cpu, began.elapsed()));
        }
        times.sort();
        let longest = times.iter().map(|(_, wall)| wall).max().unwrap();
        println!(
            "{what}: CPU median {:?}, most {:?}; longest {longest:?}",
            times[10].0, times[19].0
        );
    };
    let store = &place.store;
    time("first read, fresh file", &mut |_| {
        fs::write(&place.path, place.text() + "\n").unwrap();
        store.users().unwrap();
    });
    time("create", &mut |n| {
        let user = CreateUser {
            max_tcp_conns: Some(5),
            data_quota_bytes: Some(5),
            ..new(&format!("new-{n}"))
        };
        store.create(&user, None).unwrap();
    });
    time("patch", &mut |n| {
        let patch = PatchUser {
            max_tcp_conns: Patch::Set(n as u64),
            ..PatchUser::default()
        };
        store.patch("user-05000", &patch, None).unwrap();
    });
    time("delete", &mut |n| {
        store.delete(&format!("new-{n}"), None).unwrap();
    });
    std::thread::sleep(std::time::Duration::from_millis(200));
    store.users().unwrap();
    time("revision, unchanged", &mut |_| {
        drop(store.revision().unwrap())
    });
    time("users, unchanged", &mut |_| drop(store.users().unwrap()));
    time("parse alone", &mut |_| {
        config::parse(&place.path, text.clone()).unwrap();
    });
    time("edit alone", &mut |n| {
        let edit = Edit::set(&["access", "users", "user-05000"], n.to_string());
        edit::apply(&Text::parse(&text).unwrap(), &[edit]).unwrap();
    });
    time("write alone", &mut |n| {
        let old = fs::read(&place.path).unwrap();
        let new = [&old[..], n.to_string().as_bytes()].concat();
        file_write::replace(&place.path, &old, &new).unwrap();
    });
}
