//! Chat templates that loop, grow or nest without end are errors that name the template, and never take the process down.
#![cfg(feature = "data")]

use std::fs;

use figa_loss::{ChatOptions, ChatTemplate, Error, Message};
use tempfile::TempDir;

fn read(template: &str) -> Result<ChatTemplate, Error> {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    ChatTemplate::read(folder.path(), &ChatOptions::default()).map(|template| template.expect("a template"))
}

fn messages() -> Vec<Message> {
    vec![Message::new("user", "Hello"), Message::new("assistant", "Hi")]
}

fn render(template: &str) -> Result<String, String> {
    let rendered = read(template).and_then(|template| template.render(&messages(), false));
    rendered.map_err(|error| error.to_string())
}

/// Checks that each template is refused, in one line that names its file and holds `reason`.
#[track_caller]
fn assert_refused(templates: &[&str], reason: &str) {
    for template in templates {
        let start: String = template.chars().take(200).collect();
        let error = render(template).map(|text| text.len()).expect_err(&start);
        assert!(error.contains("chat_template.jinja") && error.contains(reason), "{start}: {error}");
        assert!(!error.contains('\n') && error.len() < 500, "{start}: {error}");
    }
}

const STEPS: &str = "takes more than 5000000 steps for this conversation, or creates more than 320000000 bytes";
const DEPTH: &str = "lists and dicts within each other: more than 200 levels";
const STORES: &str = "a namespace can hold texts, numbers, lists and dicts";

#[test]
fn loops_end() {
    assert_refused(
        &[
            "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
            "{% macro f(n) %}{% for a in range(9) %}{{ f(n + 1) if n < 40 }}{% endfor %}{% endmacro %}{{ f(0) }}",
            "{% for a in range(99999) recursive %}{{ loop(range(9999)) if loop.depth < 5 }}{% endfor %}",
            "{% set x = ['a' * 1000000] * 100 %}{% for a in range(9999) %}{{ x|sort|length }}{% endfor %}",
            "{% set x = 'a' * 9000000 %}{% set y = 'a' * 9000000 %}{% for a in range(9999) %}{{ x == y }}{% endfor %}",
            "{% set x = 'a' * 9000000 %}{% for a in range(9999) %}{{ x is eq(x ~ 'b') }}{% endfor %}",
            "{% set x = 'a' * 9000000 %}{% for a in range(9999) %}{{ {x: 1}[x] }}{% endfor %}",
            "{% set x = [[0] * 99999] %}{% set y = [[0] * 99999] %}{% for a in range(9999) %}{{ x == y }}{% endfor %}",
            "{% set x = [[0] * 99999] %}{% set y = [[0] * 99999] %}{% for a in range(9999) %}{{ x in [y] }}{% endfor %}",
            "{% set x = [[0] * 99999] %}{% set y = [[0] * 99999] %}{% for a in range(9999) %}{{ [x].index(y) }}{% endfor %}",
        ],
        STEPS,
    );
}

#[test]
fn values_stay_small() {
    let doubled = |start: &str, step: &str| format!("{{% set x = {start} %}}{}{{{{ x }}}}", step.repeat(60));
    let doubled = [
        doubled("[0]", "{% set x = [x, x] %}"),
        doubled("[0]", "{% set x = x, x %}"),
        doubled("[0]", "{% set x = (x, x) %}"),
        doubled("[0]", "{% set x = {0: x, 1: x} %}"),
        doubled("{}", "{% set x = dict(a=x, b=x) %}"),
        doubled("[0]", "{% set x = x + x %}"),
        doubled("[0]", "{% set x = x * 9 %}"),
        doubled("(0,)", "{% set x = x + x %}"),
        doubled("'x'", "{% set x = x ~ x %}"),
        doubled("'x'", "{% set x = x + x %}"),
        doubled("'x'", "{% set x = '%s%s' % (x, x) %}"),
        doubled("'x'", "{% set x = '{0}{0}'.format(x) %}"),
        doubled("'x'", "{% set x %}{{ x }}{{ x }}{% endset %}"),
        doubled("'x'", "{% set x = x.replace('x', 'xxxxx') %}"),
        doubled("'x'", "{% set x = x|replace('x', 'xxxxx') %}"),
        doubled("'x'", "{% set x = [x, x]|join %}"),
        doubled("'x'", "{% set x = x.join([x, x]) %}"),
        doubled("[0]", "{% set x = [x, x]|list|tojson %}"),
        doubled("[0]", "{% set x = [x, x]|string %}"),
        doubled("[0]", "{% set x = ([x, x]) ~ '' %}"),
        doubled("[0]", "{% set x = [[x, x][0:], x] %}"),
        doubled("[0]", "{% set x = x|zip(x)|list %}"),
        doubled("[0]", "{% set x = [x, x]|map('batch', 1)|list %}"),
    ];
    assert_refused(&doubled.each_ref().map(String::as_str), "more than ");
    assert_refused(
        &[
            "{{ 'x' * 10 ** 10 }}",
            "{{ ([0] * 100000000)|string }}",
            "{{ [0] * 100000000 ~ '' }}",
            "{{ (['x' * 1000000] * 100000)|join }}",
            "{{ ''.join(['x' * 1000000] * 100000) }}",
            "{{ ('x' * 1000000).join(messages|map('string')|list * 1000) }}",
            "{{ 'a'.center(10 ** 10) }}",
            "{{ 'a'.ljust(10 ** 10) }}",
            "{{ 'a'.zfill(10 ** 10) }}",
            "{{ '\t'.expandtabs(10 ** 10) }}",
            "{{ '%1000000000d' % 1 }}",
            "{{ '%.1000000000f' % 1.5 }}",
            "{{ '%1000000000d'|format(1) }}",
            "{{ ('%(a)s' * 10000) % {'a': 'x' * 1000000} }}",
            "{{ '{:1000000000}'.format(1) }}",
            "{{ ('{0}' * 10000).format('x' * 1000000) }}",
            "{{ messages|tojson(indent=10 ** 10) }}",
            "{{ (messages * 1000)|tojson(indent='x' * 1000000) }}",
            "{{ (messages * 10000)|tojson(separators=['x' * 1000000, ':']) }}",
            "{{ ('x\\n' * 100000)|indent(1000000) }}",
            "{{ [0]|batch(10 ** 10, 'x') }}",
            "{{ [0]|slice(10 ** 10) }}",
            "{{ ('a' * 10000000).split('a')|length }}{{ ('a ' * 30000000).split()|length }}",
            "{{ ('a' * 100000).replace('', 'x' * 100000) }}",
        ],
        STEPS,
    );
}

#[test]
fn values_stay_flat() {
    let nested =
        |start: &str, step: &str| format!("{{% set x = {start} %}}{}{{{{ x }}}}", format!("{step}\n").repeat(5000));
    let deep = [
        nested("[0]", "{% set x = [x] %}"),
        nested("[0]", "{% set x = (x,) %}"),
        nested("{}", "{% set x = {0: x} %}"),
        nested("{}", "{% set x = dict(a=x) %}"),
        nested("[0]", "{% set x = x|batch(1) %}"),
        nested("[0]", "{% set x = x|slice(1) %}"),
        nested("{}", "{% set x = {0: x}.items() %}"),
        "{% set n = namespace(a=[]) %}{% for i in range(99999) %}{% set n.a = [n.a] %}{% endfor %}".into(),
        "{% macro f(x, n) %}{{ f([[[[[[x]]]]]], n + 1) if n < 70 }}{% endmacro %}{{ f([], 0) }}".into(),
        "{% for x in [[]] recursive %}{{ loop([[x]]) }}{% endfor %}".into(),
    ];
    assert_refused(&deep.each_ref().map(String::as_str), DEPTH);
    let chained = [
        nested("[0]", "{% set x = x[0:] %}"),
        nested("[0]", "{% set x = x|reverse %}"),
        nested("[0]", "{% set x = x[::-1] %}"),
        nested("{}", "{% set x = {0: 0}.values() %}"),
    ];
    for template in &chained {
        assert!(render(template).is_ok(), "{:?}", render(template));
    }
}

#[test]
fn recursion_ends() {
    for template in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(x) %}{% for a in [x] %}{% if a %}{{ [a]|map('string')|join ~ f(a) }}{% endif %}{% endfor %}{% endmacro %}{{ f(1) }}",
        "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% include 'default' %}",
        "{% extends 'default' %}",
        "{% import 'default' as x %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
    ] {
        let error = render(template).expect_err(template);
        assert!(error.contains("chat_template.jinja") && !error.contains('\n'), "{template}: {error}");
    }
}

#[test]
fn no_value_holds_itself() {
    assert_refused(
        &[
            "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
            "{% set n = namespace() %}{% set n.a = [n] %}{{ n|tojson }}",
            "{% set n = namespace() %}{% set n.a = {'b': n} %}{{ n == n.a }}",
            "{% set n = namespace() %}{% set n.a, b = n, 1 %}{{ n|string }}",
            "{% set n = namespace() %}{% set n.a | default(n, true) %}{% endset %}{{ n }}",
            "{% set n = namespace() %}{% set m = namespace(a=n) %}{% set n.a = m %}{{ n }}",
            "{% set n = namespace(a=namespace()) %}{{ n }}",
            "{% set n = namespace() %}{% for i in range(9) %}{% macro f() %}{{ n }}{% endmacro %}{% set n.a = f %}{% endfor %}",
            "{% set n = namespace() %}{% for i in range(9) %}{% set n.a = loop %}{% endfor %}",
            "{% set n = namespace() %}{% set n.a = cycler(n) %}",
        ],
        STORES,
    );
}

#[test]
fn sources_are_bounded() {
    let repeated = |start: &str, part: &str, end: &str, count: usize| {
        format!(
            "{{{{ {start}{}{end}{} }}}}",
            part.repeat(count),
            if part == "(" { ")".repeat(count) } else { "".into() }
        )
    };
    assert_refused(&[&"x".repeat(300_000)], "at most 262144 are read");
    assert_refused(
        &[&repeated("", "(", "1", 5000), &repeated("", "[", "", 60_000), &repeated("", "{1:", "", 60_000)],
        "brackets within brackets; at most 50 levels are read",
    );
    assert_refused(
        &[
            &repeated("1", "+1", "", 60_000),
            &repeated("1", "*1", "", 60_000),
            &repeated("'x'", "%1", "", 60_000),
            &repeated("", "-", "1", 200_000),
            &repeated("", "not ", "1", 60_000),
            &repeated("x", ".x", "", 60_000),
            &repeated("x", "[0]", "", 60_000),
            &repeated("x", "|e", "", 60_000),
            &repeated("1", " if 1 else 1", "", 20_000),
            &repeated("x", " is x", "", 40_000),
        ],
        "more than 1000 names and signs without a comma",
    );
    let elifs = format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(10_000));
    assert_refused(&[&elifs], "more than 500 `elif`");
    assert_refused(&[&"x".repeat(70_000)], "a line of more than 65535 bytes");
    assert_refused(&[&"\n".repeat(70_000)], "more than 65535 lines");
    let ifs = "{% if 1 %}\n".repeat(20_000);
    assert_refused(&[&ifs], "recursion");
}

#[test]
fn the_line_of_a_bound_is_named() {
    let error = render(&format!("a\nb\n{{{{ {}1 }}}}", "(".repeat(60))).unwrap_err();
    assert!(error.contains("chat_template.jinja, line 3: brackets within brackets"), "{error}");
}

#[test]
fn translation_is_linear() {
    let many = |part: &str| format!("{part}\n").repeat(260_000 / (part.len() + 1));
    for part in [
        "{{ 'a' % 1 }}",
        "{{ 2 * 3 % 4 }}",
        "{% generation %}{% endgeneration %}",
        "{% macro f(a) %}{{ varargs }}{% endmacro %}{{ f(1, f(2, 3)) }}",
        "{% macro f(a) %}{{ kwargs",
        "{{ x[1:] }}",
        "{{ - - - - }}",
        "{{ f(",
        "{% raw %}",
        "{#",
        "{{ '",
    ] {
        let _ = read(&many(part));
    }
    let _ = read(&format!("{{{{ {}", "-".repeat(260_000)));
}

#[test]
fn long_conversations_fit() {
    let turn = "All happy families are alike; each unhappy family is unhappy in its own way. ".repeat(20);
    let messages: Vec<Message> =
        (0..2000).map(|at| Message::new(["user", "assistant"][at % 2], &*format!("{at}: {turn}"))).collect();
    for entry in fs::read_dir("tests/fixtures/chat_templates").unwrap() {
        let template = fs::read_to_string(entry.unwrap().path()).unwrap();
        match read(&template).unwrap().render(&messages, true) {
            Ok(text) => assert!(text.contains("1999: All happy families"), "{template}"),
            Err(error) => assert!(!error.to_string().contains("steps"), "{template}: {error}"),
        }
    }
    // More bytes than steps.
    let huge = [Message::new("user", "x".repeat(20_000_000))];
    let template = "{% set c = messages[0].content %}".to_owned() + &"{% set c = c|trim %}".repeat(20) + "{{ c }}";
    assert_eq!(read(&template).unwrap().render(&huge, false).unwrap().len(), 20_000_000);
}
