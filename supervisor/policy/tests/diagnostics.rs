//! What people read when a profile is wrong.

use skep_policy::compose::{Library, MAX_RULES, compose};
use skep_policy::decision::Decision;
use skep_policy::diagnostics::{MAX_SOURCE, Source};
use skep_policy::policy::{Bindings, FileOp, Policy};
use skep_policy::profile::Profile;
use skep_policy::shipped::Shipped;
use skep_policy::tree::Imagined;

fn errors(text: &str) -> String {
    let source = Source::new("p.toml", text);
    let composed = Profile::parse(&source).and_then(|profile| compose(&profile, &Shipped));
    let compiled =
        composed.and_then(|effective| Policy::compile_checked(&effective, &Bindings::for_tests(), &Imagined));
    compiled.err().map(|errors| errors.to_string()).unwrap_or_default()
}

/// A profile with a body, on line 3 and following.
fn body(text: &str) -> String {
    errors(&format!("schema = 1\nname = \"p\"\n{text}"))
}

#[test]
fn all_errors_come_at_once_each_with_its_place() {
    let text = r#"schema = 1
name = "p"
[limits]
memroy = "8GiB"
pids = "many"
[files]
read = ["usr", 7]
ask = [{ path = "~", ops = ["raed"] }]
[[egress]]
to = ["example.com"]
"#;
    let expected = r#"p.toml:4:1: error: unknown key `memroy` in `limits`; accepted: memory, pids, cpu, io, nofile, file_size, time, idle, per_command
 4 | memroy = "8GiB"
   | ^^^^^^
   = help: did you mean `memory`?
p.toml:5:8: error: `limits.pids` must be a whole number, not a string
 5 | pids = "many"
   |        ^^^^^^
p.toml:7:9: error: `usr`: a path starts with /, ~/, ${workspace}/, ${agent_state}/ or ${program}/, a guard also with **/
 7 | read = ["usr", 7]
   |         ^^^^^
p.toml:7:16: error: `files.read` must be a list of strings and tables, not an integer
 7 | read = ["usr", 7]
   |                ^
p.toml:8:29: error: `ops` is "raed"; accepted: "read", "write", "exec", "connect"
 8 | ask = [{ path = "~", ops = ["raed"] }]
   |                             ^^^^^^
   = help: did you mean "read"?
p.toml:10:7: error: `to` has "example.com"; a destination is "NAME:PORT" or "ADDRESS/BITS:PORT"; a label of the name or the port may be `*`, IPv6 addresses stand in [ ]
 10 | to = ["example.com"]
    |       ^^^^^^^^^^^^^"#;
    assert_eq!(errors(text), expected);
}

#[test]
fn a_line_of_the_audit_below_a_table_is_told_where_it_belongs() {
    let shown = body("files.read = [\"/x\"]\n[[egress]]\nto = [\"a.b:443\"]\nfiles.read = [\"/y\"]");
    assert!(shown.starts_with("p.toml:6:1: error: unknown key `files` in `egress`"), "{shown}");
    assert!(
        shown.contains("help: `files` belongs to the whole profile: put it above the first [table]"),
        "{shown}"
    );
}

#[test]
fn deny_unknown_fields() {
    for (table, text) in [
        ("a profile", "surprise = 1"),
        ("limits", "[limits]\nsurprise = 1"),
        ("limits.per_command", "[limits.per_command]\nsurprise = 1"),
        ("limits.memory", "[limits.memory]\nmax = \"1GiB\"\nsurprise = 1"),
        ("files", "[files]\nsurprise = 1"),
        ("files.read", "[files]\nread = [{ path = \"/a\", surprise = 1 }]"),
        ("guards", "[guards]\nsurprise = 1"),
        ("guards.hide", "[guards]\nhide = [{ path = \"/a\", surprise = 1 }]"),
        ("commands", "[commands]\nsurprise = 1"),
        (
            "commands.rule",
            "[commands]\ndefault = \"allow\"\n[[commands.rule]]\nrun = [\"a\"]\ndecision = \"deny\"\nsurprise = 1",
        ),
        ("egress", "[[egress]]\nto = [\"a.b:1\"]\nsurprise = 1"),
        ("environment", "[environment]\nsurprise = 1"),
        ("example", "[[example]]\ndo = \"read /a\"\nexpect = \"deny\"\nsurprise = 1"),
    ] {
        let shown = body(text);
        assert!(shown.contains("unknown key `surprise`") && shown.contains(table), "{table}: {shown}");
    }
}

#[test]
fn a_key_given_twice_is_an_error() {
    assert!(body("[limits]\npids = 1\npids = 2").contains("p.toml:5:1: error: duplicate key"));
    assert!(errors("schema = 1\nname = \"p\"\nname = \"p\"").contains("duplicate key"));
}

#[test]
fn schema_and_name_are_required() {
    let shown = errors("# nothing yet");
    assert!(
        shown.contains("the key `schema` is missing") && shown.contains("the key `name` is missing"),
        "{shown}"
    );
    assert!(errors("schema = 2\nname = \"p\"").contains("this skep reads schema 1 only"));
    assert!(errors("schema = 1\nname = \"../x\"").contains("accepted: 1 to 64 of a-z, 0-9 and -"));
}

#[test]
fn an_empty_profile_says_so() {
    let shown = errors("\n");
    assert!(shown.contains("p.toml:1:1: error: the profile is empty\n"), "{shown}");
    assert!(shown.contains("help: remove the file, or fill it: it begins with `schema = 1`"), "{shown}");
}

#[test]
fn two_suggestions_for_one_list_are_told_to_become_one() {
    let printed = |path: &str| {
        let profile = Profile::parse(&Source::new("p.toml", "schema = 1\nname = \"p\"")).expect("good");
        let effective = compose(&profile, &Shipped).expect("good");
        let policy = Policy::compile(&effective, &Bindings::for_tests(), &Imagined).expect("good");
        policy.allowing(FileOp::Read, path.as_ref(), None).expect("a line")
    };
    let shown = body(&format!("{}\n{}", printed("/srv/a"), printed("/srv/b")));
    assert!(shown.contains("p.toml:4:7: error: duplicate key\n"), "{shown}");
    assert!(shown.contains("help: write it once: a list takes the items of both"), "{shown}");
}

#[test]
fn what_a_terminal_would_obey_is_escaped() {
    let shown = errors("schema = 1\nname = \"p\"\n\"\\u001b[2J\" = 1 # \u{202e}\n");
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown:?}");
    assert!(shown.contains("\\u{1b}[2J"), "{shown}");
}

#[test]
fn examples_that_come_out_differently_are_errors() {
    let shown = body("[files]\nread = [\"/srv\"]\n[[example]]\ndo = \"write /srv/x\"\nexpect = \"allow\"");
    let expected = "p.toml:6:6: error: the example expects allow but the profile says deny: p:4 files.read \"/srv\" \
                    (granted for reading only)\n 6 | do = \"write /srv/x\"\n   |      ^";
    assert_eq!(shown, expected);
}

#[test]
fn the_examples_of_a_used_profile_are_promises_of_that_profile_alone() {
    struct One(&'static str);
    impl Library for One {
        fn find(&self, name: &str) -> Option<Source> {
            (name == "mixin").then(|| Source::new("mixin.toml", self.0))
        }
    }
    let mixin =
        "schema = 1\nname = \"mixin\"\n[[example]]\ndo = \"connect example.com:443\"\nexpect = \"deny\"\n";
    let wrong =
        "schema = 1\nname = \"mixin\"\n[[example]]\ndo = \"connect example.com:443\"\nexpect = \"allow\"\n";
    let compiled = |text: &str, library: One| {
        let profile = Profile::parse(&Source::new("p.toml", text)).expect("well formed");
        let effective = compose(&profile, &library).expect("composed");
        Policy::compile_checked(&effective, &Bindings::for_tests(), &Imagined)
    };
    let using = "schema = 1\nname = \"p\"\nuse = [\"mixin\"]\n";
    let printed =
        compiled(using, One(mixin)).expect("good").allowing_connect("example.com", 443).expect("a line");
    let policy = compiled(&format!("{using}{printed}\n"), One(mixin)).expect("what skep prints is taken");
    assert_eq!(policy.judge_connect("example.com", 443).decision, Decision::Allow);
    assert!(compiled(wrong, One(mixin)).is_err(), "its own are judged where it is at the top");
    let own = format!("{using}[[example]]\ndo = \"connect example.com:443\"\nexpect = \"allow\"\n");
    assert!(compiled(&own, One(mixin)).is_err(), "and so are those of what uses it, with all that is used");
}

#[test]
fn the_line_for_a_connection_is_taken_below_a_shipped_profile() {
    let using = "schema = 1\nname = \"p\"\nuse = [\"workspace\"]\n";
    assert_eq!(errors(&format!("{using}egress = [{{ to = [\"example.com:443\"] }}]\n")), "");
}

#[test]
fn grants_that_would_undo_the_sandbox_are_errors() {
    for path in ["/", "/proc", "/proc/1/root", "/dev/mem", "/tmp"] {
        let shown = body(&format!("[files]\nread = [\"{path}\"]"));
        assert!(shown.contains("p.toml:4:9: error:"), "{path}: {shown}");
    }
    assert_eq!(body("[files]\nexec = [\"/tmp\"]"), "");
    let mut bindings = Bindings::for_tests();
    bindings.workspace = bindings.home.clone();
    let profile = Profile::parse(&Shipped.find("workspace").expect("shipped")).expect("good");
    let effective = compose(&profile, &Shipped).expect("good");
    let errors = Policy::compile(&effective, &bindings, &Imagined).expect_err("home as the workspace");
    assert!(errors.to_string().contains("which holds the whole home directory"), "{errors}");
    assert_eq!(errors.errors.len(), 1, "the workspace is wrong, and not each rule that names it: {errors}");
}

#[test]
fn what_is_skepds_own_cannot_be_granted() {
    for path in ["/var/lib/skep", "/var/lib/skep/audit", "/var/lib", "/run", "/run/skep/skepd.sock"] {
        let shown = body(&format!("[files]\nread = [\"{path}\"]"));
        assert!(shown.contains("skepd's own"), "{path}: {shown}");
    }
    assert_eq!(body("[files]\nwrite = [\"${agent_state}\"]\nread = [\"/var/lib/other\"]"), "");
}

#[test]
fn the_same_path_for_reading_and_writing_is_an_error() {
    assert!(body("[files]\nread = [\"/a\"]\nwrite = [\"/a\"]").contains("also in `files.write`"));
}

#[test]
fn sources_that_are_too_large_or_too_deep_or_no_text_are_refused() {
    let large = "#".repeat(MAX_SOURCE + 1);
    assert!(errors(&large).contains("at most 65536 are read"));
    assert!(Source::from_bytes("p", large.as_bytes()).is_err());
    let not_utf8 = Source::from_bytes("p", b"a = 1\nb = \xff").expect_err("not UTF-8");
    assert_eq!((not_utf8.errors[0].line, not_utf8.errors[0].column), (2, 5));
    let deep = format!("x = {}{}", "[".repeat(30_000), "]".repeat(30_000));
    let shown = errors(&deep);
    assert!(shown.contains("max recursion depth"), "{}", &shown[..shown.len().min(2000)]);
    let keys = vec!["a"; 30_000].join(".");
    assert!(!errors(&format!("{keys} = 1")).is_empty());
}

#[test]
fn a_profile_with_more_rules_than_a_launch_can_judge_is_refused_with_what_it_uses() {
    let passing = |name: &str, count: usize| {
        let names: Vec<_> = (0..count).map(|number| format!("\"{name}{number}\"")).collect();
        format!("schema = 1\nname = \"{name}\"\n[environment]\npass = [{}]\n", names.join(","))
    };
    let used = passing("b", MAX_RULES / 2);
    let check = |count: usize| {
        let text = passing("a", count).replace("[environment]", "use = [\"b\"]\n[environment]");
        let top = Profile::parse(&Source::new("a", text)).expect("good");
        compose(&top, &Named(vec![("b".to_owned(), used.clone())])).map_err(|errors| errors.to_string())
    };
    assert!(check(MAX_RULES / 2).is_ok());
    assert!(check(MAX_RULES / 2 + 1).expect_err("too many").contains("has 1025 rules; at most 1024"));
}

/// Profiles by name, for composing.
struct Named(Vec<(String, String)>);

impl Library for Named {
    fn find(&self, name: &str) -> Option<Source> {
        self.0.iter().find(|(other, _)| other == name).map(|(name, text)| Source::new(name, text.as_str()))
    }
}

fn composed(profiles: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let text = |name: &str, uses: &str| format!("schema = 1\nname = \"{name}\"\nuse = [{uses}]\n");
    let named = Named(profiles.iter().map(|(name, uses)| ((*name).to_owned(), text(name, uses))).collect());
    let top = Profile::parse(&named.find(profiles[0].0).expect("the first")).expect("good");
    let effective = compose(&top, &named).map_err(|errors| errors.to_string())?;
    Ok(effective.sources.into_iter().map(|(name, _)| name).collect())
}

#[test]
fn profiles_are_put_together_once_each_and_the_used_ones_first() {
    let order = composed(&[("a", "\"b\", \"c\""), ("b", "\"d\""), ("c", "\"d\""), ("d", "")]);
    assert_eq!(order.expect("good"), ["d", "b", "c", "a"]);
}

#[test]
fn circles_depth_and_unknown_profiles_are_errors() {
    let circle = composed(&[("a", "\"b\""), ("b", "\"a\"")]).expect_err("a circle");
    assert!(circle.contains("b:3:8: error: profiles use each other in a circle: a -> b -> a"), "{circle}");
    let deep = composed(&[
        ("a", "\"b\""),
        ("b", "\"c\""),
        ("c", "\"d\""),
        ("d", "\"e\""),
        ("e", "\"f\""),
        ("f", ""),
    ]);
    assert!(deep.expect_err("too deep").contains("more than 4 deep"));
    assert!(composed(&[("a", "\"b\""), ("b", "\"c\""), ("c", "\"d\""), ("d", "\"e\""), ("e", "")]).is_ok());
    assert!(composed(&[("a", "\"z\"")]).expect_err("unknown").contains("there is no profile `z`"));
}
