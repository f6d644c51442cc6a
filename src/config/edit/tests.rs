//! Spellings by hand, then random documents and random changes.

mod random;

use super::*;

fn apply(text: &str, edits: &[Edit]) -> Result<String, EditError> {
    super::apply(&Text::parse(text).ok_or(EditError::NotToml)?, edits)
}

fn set(keys: &[&str], value: impl Into<Value>) -> Edit {
    Edit::set(keys, value)
}

/// Makes one change; the text must be exactly `after`.
fn expect(before: &str, edit: Edit, after: &str) {
    expect_all(before, &[edit], after);
}

fn expect_all(before: &str, edits: &[Edit], after: &str) {
    let changed = apply(before, edits).unwrap();
    assert_eq!(changed, after, "{edits:?}");
    let crlf = |text: &str| text.replace('\n', "\r\n");
    let changed = apply(&crlf(before), edits).unwrap();
    assert_eq!(changed, crlf(after), "with CRLF: {edits:?}");
}

const BOB: [&str; 3] = ["access", "users", "bob"];

#[test]
fn replaces_nothing_but_the_value() {
    for (before, after) in [
        (
            "[access.users]\nbob = \"x\"\n",
            "[access.users]\nbob = \"y\"\n",
        ),
        (
            "# a\n  [ access . \"users\" ] # b\n\n\t'bob'  =  'x'\t# c\nal=\"z\"",
            "# a\n  [ access . \"users\" ] # b\n\n\t'bob'  =  \"y\"\t# c\nal=\"z\"",
        ),
        ("access.users.bob='x' # c\n", "access.users.bob=\"y\" # c\n"),
        ("[access]\nusers.bob = 1\n", "[access]\nusers.bob = \"y\"\n"),
        (
            "[access]\nusers = {bob=1,al=2}\n",
            "[access]\nusers = {bob=\"y\",al=2}\n",
        ),
        (
            "access = { users.bob = [\n1, # one\n] }\n",
            "access = { users.bob = \"y\" }\n",
        ),
        (
            "[access.users]\nbob = [\n 1,\n] # c\n# d",
            "[access.users]\nbob = \"y\" # c\n# d",
        ),
    ] {
        expect(before, set(&BOB, "y"), after);
    }
}

#[test]
fn puts_a_new_key_where_its_table_is() {
    for (before, after) in [
        // After the last entry, not after the comments behind it.
        (
            "[access.users] # who\n  al = \"x\" # one\n  # old\n\n# next\n[server]\n",
            "[access.users] # who\n  al = \"x\" # one\n  bob = \"y\"\n  # old\n\n# next\n[server]\n",
        ),
        (
            "[access.users]\n# none\n",
            "[access.users]\nbob = \"y\"\n# none\n",
        ),
        (
            "[access.users]\nal = 1",
            "[access.users]\nal = 1\nbob = \"y\"",
        ),
        (
            "[access]\nusers = {}\n",
            "[access]\nusers = { bob = \"y\" }\n",
        ),
        (
            "[access]\nusers = {al=1}\n",
            "[access]\nusers = {al=1, bob = \"y\"}\n",
        ),
        (
            "[access]\nusers.al = 1\nb = 2\n",
            "[access]\nusers.al = 1\nusers.bob = \"y\"\nb = 2\n",
        ),
        (
            "access.users.al = 1\nx = 2\n[server]\n",
            "access.users.al = 1\naccess.users.bob = \"y\"\nx = 2\n[server]\n",
        ),
        ("access = { }\n", "access = { users = { bob = \"y\" } }\n"),
        (
            "access = { users.al = 1 }\n",
            "access = { users.al = 1, users.bob = \"y\" }\n",
        ),
        // Missing tables go to the end.
        ("", "[access.users]\nbob = \"y\"\n"),
        (
            "[access]\na = 1",
            "[access]\na = 1\n\n[access.users]\nbob = \"y\"\n",
        ),
        (
            "[access.users.x]\n\n",
            "[access.users.x]\n\n[access.users]\nbob = \"y\"\n",
        ),
    ] {
        // An empty text has no line ends to copy.
        if before.contains('\n') {
            expect(before, set(&BOB, "y"), after);
        } else {
            assert_eq!(apply(before, &[set(&BOB, "y")]).unwrap(), after);
        }
    }
}

#[test]
fn quotes_names_that_need_it() {
    let dotted = set(&["access", "users", "a.b"], "y");
    expect(
        "[access.users]\n",
        dotted.clone(),
        "[access.users]\n\"a.b\" = \"y\"\n",
    );
    let twice = "[access.users]\n\"a.b\" = \"x\"\na.b = 5\n";
    expect(twice, dotted, "[access.users]\n\"a.b\" = \"y\"\na.b = 5\n");
    expect(
        "\n[x]\n",
        set(&["a b", "ü", "k"], 1),
        "\n[x]\n\n[\"a b\".\"ü\"]\nk = 1\n",
    );
}

#[test]
fn removes_lines_and_keeps_their_neighbours() {
    for (before, after) in [
        (
            "[access.users]\n# bob\nbob = \"x\" # b\n# al\nal = 1\n",
            "[access.users]\n# bob\n# al\nal = 1\n",
        ),
        (
            "[access.users]\nbob = [\n1,\n] # c\n\n",
            "[access.users]\n\n",
        ),
        (
            "[access]\nusers = {al=1, bob = 2}\n",
            "[access]\nusers = {al=1}\n",
        ),
        (
            "[access]\nusers = {bob = 2, al=1 }\n",
            "[access]\nusers = {al=1 }\n",
        ),
        (
            "[access]\nusers = { bob = 2 }\n",
            "[access]\nusers = {  }\n",
        ),
        (
            "access = {users = { bob.x = 1, bob.y = 2 }}\n",
            "access = {users = {  }}\n",
        ),
        ("a = 1\naccess.users.bob = 1\n[b]\n", "a = 1\n[b]\n"),
        (
            "[access.users.bob] # b\n# keep\nx = 1\n\n[z]\n[access.users.bob.more]\ny = 2\n",
            "# keep\n\n[z]\n",
        ),
        ("[access.user]\nbob = 1\n", "[access.user]\nbob = 1\n"),
    ] {
        expect(before, Edit::remove(&BOB), after);
    }
    let kept = "x = {\n  a = 1, # one\n  b = 2\n}\n";
    expect(
        kept,
        Edit::remove(&["x", "b"]),
        "x = {\n  a = 1, # one\n  \n}\n",
    );
}

#[test]
fn root_keys_stay_before_the_first_header() {
    let key = || set(&["show_link"], "*");
    expect("a = 1\n[b]\n", key(), "a = 1\nshow_link = \"*\"\n[b]\n");
    expect(
        "# top\n\n# b\n[b]\n",
        key(),
        "# top\n\nshow_link = \"*\"\n\n# b\n[b]\n",
    );
    expect("# top\n", key(), "# top\nshow_link = \"*\"\n");
}

#[test]
fn arrays_of_tables_are_edited_by_element() {
    let text = "[[upstreams]]\ntype = \"direct\"\n\n[[upstreams]] # two\nweight = 1\n[upstreams.x]\ny = 1\n# end\n";
    let step = |index, key: &str| {
        let mut path = path(&["upstreams"]);
        path.push(Step::Index(index));
        path.push(Step::Key(Cow::Owned(key.to_owned())));
        path
    };
    let weight = |index| Edit::Set {
        path: step(index, "weight"),
        value: 7.into(),
    };
    expect(text, weight(1), &text.replace("weight = 1", "weight = 7"));
    let first = text.replacen("\"direct\"\n", "\"direct\"\nweight = 7\n", 1);
    expect(text, weight(0), &first);
    let append = |index| Edit::Append {
        path: path(&["upstreams"]),
        index,
        entries: vec![("type".to_owned(), "direct".into())],
    };
    let third = text.replace("y = 1\n", "y = 1\n\n[[upstreams]]\ntype = \"direct\"\n");
    expect(text, append(2), &third);
    assert!(apply(text, &[append(1)]).is_err());
    expect(
        "a = 1\n",
        append(0),
        "a = 1\n\n[[upstreams]]\ntype = \"direct\"\n",
    );
    let mut last = path(&["upstreams"]);
    last.push(Step::Index(1));
    let gone = "[[upstreams]]\ntype = \"direct\"\n\n# end\n";
    expect(text, Edit::Remove { path: last }, gone);
    expect(text, Edit::remove(&["upstreams"]), "\n# end\n");
}

#[test]
fn changes_build_on_each_other() {
    let edits = [
        set(&["a", "x", "k"], 1),
        set(&["a", "x", "l"], 2),
        set(&["a", "y"], 3),
        Edit::remove(&["a", "x", "k"]),
        set(&["r"], 4),
    ];
    expect_all(
        "# c\n\n",
        &edits,
        "# c\n\nr = 4\n\n[a.x]\nl = 2\n\n[a]\ny = 3\n",
    );
}

#[test]
fn tables_are_not_overwritten() {
    for text in [
        "[a.b]\n",
        "[a.b.c]\n",
        "a.b.c = 1\n",
        "a = 1\n",
        "a = [{b = 1}]\n",
    ] {
        let refused = apply(text, &[set(&["a", "b"], 1)]);
        assert_eq!(refused, Err(EditError::Shape("a.b".to_owned())), "{text}");
    }
    assert_eq!(apply("a", &[set(&["b"], 1)]), Err(EditError::NotToml));
}

#[test]
fn looks_up_tables_and_strings() {
    let text = "a.users.x = \"1\"\n[b]\nusers = { \"y.z\" = '2', n = 5 }\n[c.d]\n";
    let text = Text::parse(text).unwrap();
    for (keys, there) in [
        (&["a"][..], true),
        (&["a", "users", "x"], true),
        (&["a", "users", "x", "y"], false),
        (&["b", "users", "y.z"], true),
        (&["c"], true),
        (&["c", "d"], true),
        (&["c", "d", "e"], false),
        (&["d"], false),
    ] {
        assert_eq!(text.has(&path(keys)), there, "{keys:?}");
    }
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(text.strings(&["a", "users"]), [pair("x", "1")]);
    assert_eq!(text.strings(&["b", "users"]), [pair("y.z", "2")]);
    let raw = |keys: &[&str]| text.raw(&path(keys));
    assert_eq!(raw(&["a", "users", "x"]), Some("\"1\""));
    assert_eq!(raw(&["b", "users", "n"]), Some("5"));
    assert_eq!((raw(&["b", "users"]), raw(&["a", "users"])), (None, None));
    assert_eq!(Vec::from_iter(text.names(&["b", "users"])), ["n", "y.z"]);
    assert_eq!(Vec::from_iter(text.names(&[])), ["a", "b", "c"]);
}
