//! The quick way for one user of many leads to what the whole way leads to.

use admin::{Expiration, Patch};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

/// Files whose tables the quick way can read: one for each reading of `seed`.
fn text(rng: &mut StdRng) -> String {
    let users = rng.random_range(70..150);
    let mut text = String::from("# top\n[general]\nprot = 5\nlog_level = \"silent\"\n");
    if rng.random_bool(0.3) {
        text += "[general.links]\nshow = [\"user-3\", \"gone\", \"user-40\"]\n";
    }
    let name = |n: usize| match n % 10 {
        7 => format!("\"user.{n}\""),
        8 => format!("'user-{n}'"),
        _ => format!("user-{n}"),
    };
    let tables = [
        ("users", 1.0, "S"),
        ("user_max_tcp_conns", 0.5, "5"),
        ("user_expirations", 0.3, "\"2031-01-02T03:04:05+01:00\""),
        ("user_expirations", 0.3, "2031-01-02T03:04:05Z"),
        ("user_rate_limits", 0.4, "{ up_bps = 5, down_bps = 0 }"),
        ("user_source_deny", 0.2, "[\"192.0.2.0/24\", '::1/128'] # ["),
        ("user_enabled", 0.3, "false"),
        ("user_ad_tags", 0.2, "\"0123456789abcdef0123456789ABCDEF\""),
    ];
    let double = rng.random_range(2..4);
    for (index, (table, part, value)) in tables.into_iter().enumerate() {
        if index == double || (index > 0 && rng.random_bool(0.3)) {
            continue;
        }
        text += &format!("\n# of {table}\n [ access . {table} ] # {table}\n");
        for n in 0..users {
            if rng.random_bool(0.1) {
                text += "  # between\n\n";
            }
            if rng.random_bool(part) {
                let value = match value {
                    "S" => format!("\"{:032X}\" # {n}", n + 1),
                    value => value.to_owned(),
                };
                let indent = ["", "\t"][rng.random_range(0..2)];
                text += &format!("{indent}{} = {value}\n", name(n));
            }
        }
    }
    if rng.random_bool(0.3) {
        text += "[access.user_max_unique_ips]\nstranger = 1\n";
    }
    match rng.random_range(0..4) {
        0 => text.replace('\n', "\r\n"),
        1 => text.trim_end().to_owned(),
        2 => text + "# end\n[server]\nport = 1\n",
        _ => text,
    }
}

fn some<T>(rng: &mut StdRng, value: T) -> Patch<T> {
    match rng.random_range(0..3) {
        0 => Patch::Keep,
        1 => Patch::Remove,
        _ => Patch::Set(value),
    }
}

/// A change of a user who may be there.
fn plan(main: &Main<'_>, user: &str, seed: u64) -> Result<Vec<Edit>, StoreError> {
    let mut rng = StdRng::seed_from_u64(seed);
    if rng.random_bool(0.2) {
        return Ok(change::delete(main, user));
    }
    let fresh = SecretText::parse(&hex::encode(rng.random::<[u8; 16]>()));
    // Another user's, which is refused.
    let taken = SecretText::parse(&format!("{:032x}", 33));
    let secret = if rng.random_bool(0.2) { taken } else { fresh };
    let must = !main.view.has(user) || rng.random_bool(0.3);
    let patch = PatchUser {
        secret: secret.filter(|_| must),
        max_tcp_conns: some(&mut rng, 7),
        data_quota_bytes: some(&mut rng, 8),
        expiration: some(&mut rng, Expiration::parse("2032-02-03T04:05:06Z").unwrap()),
        rate_limit_up_bps: some(&mut rng, 9),
        enabled: some(&mut rng, false),
        ..PatchUser::default()
    };
    Ok(change::patch(main, user, &patch))
}

/// The same without saying whose rows it changes.
struct Whole<'a>(&'a mut dyn Change);

impl Change for Whole<'_> {
    fn plan(&mut self, main: &Main<'_>) -> Result<Vec<Edit>, StoreError> {
        self.0.plan(main)
    }
}

#[test]
fn quick_way_ends_where_the_whole_way_does() {
    let (mut quick, mut changed, mut refused) = (0, 0, 0);
    for seed in 0..400_u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let text = text(&mut rng);
        let place = Place::new(&text);
        let view = place.store.disk.view().unwrap_or_else(|_| panic!("{text}"));
        let number = rng.random_range(0..160);
        let user = ["user-", "user."][usize::from(number % 10 == 7)].to_owned();
        let user = format!("{user}{number}");
        let mut change = OfUser {
            name: &user,
            plan: |main: &Main<'_>| plan(main, &user, seed),
        };
        let whole = place.store.changed(&view, &mut Whole(&mut change));
        let part = Part::of(&view.loaded, &user);
        let edited = part
            .as_ref()
            .map(|part| edited(&view, &part.text, &mut change));
        let loaded = match (&part, edited) {
            (Some(part), Some(Ok(Ok(text)))) => part.load(text),
            _ => None,
        };
        let found = place.store.changed(&view, &mut change);
        let facts = |loaded: &Option<Loaded>| {
            loaded.as_ref().map(|own| {
                let warnings = format!("{:?}", own.warnings);
                let files = own.files.clone();
                let (text, config) = (own.text.clone(), own.config.clone());
                (text, config, own.digest, files, own.set.clone(), warnings)
            })
        };
        match (whole, found) {
            (Ok(whole), Ok(found)) => {
                assert_eq!(facts(&whole), facts(&found), "seed {seed}");
                changed += usize::from(whole.is_some());
                quick += usize::from(whole.is_some() && loaded.is_some());
            }
            (Err(whole), Err(found)) => {
                assert_eq!(whole, found, "seed {seed}");
                assert!(loaded.is_none());
                refused += 1;
            }
            (whole, found) => panic!("seed {seed}: {whole:?} is not {found:?}"),
        }
    }
    println!("{changed} changed, {quick} of them quickly, {refused} refused");
    assert!(quick > 150 && refused > 10, "{quick} {refused}");
}
