# Flatten a JSON document: a line `path<TAB>value` for each scalar, such as
#   apps.0.app.exec.1<TAB>hello
# Backslashes, tabs and newlines of a value are written \\ \t \n.
function fail(text) { print "not JSON: " text > "/dev/stderr"; exit 1 }
function skip() { while (substr(doc, at, 1) ~ /[ \t\r\n]/) at++ }
function expect(c) { skip(); if (substr(doc, at, 1) != c) fail("wanted " c); at++ }

function text(    out, c, e, code) {
    expect("\"")
    while ((c = substr(doc, at++, 1)) != "\"") {
        if (c == "") fail("unterminated string")
        if (c == "\\") {
            e = substr(doc, at++, 1)
            if (e == "u") {
                code = index_of(substr(doc, at, 4)); at += 4
                if (code > 127) fail("only ASCII may be written as \\u")
                c = sprintf("%c", code)
            } else c = (e == "n") ? "\n" : (e == "t") ? "\t" : (e == "r") ? "\r" : \
                       (e == "b") ? "\b" : (e == "f") ? "\f" : e
        }
        out = out c
    }
    return out
}

function index_of(hex,    i, n) {
    for (i = 1; i <= 4; i++) n = n * 16 + index("0123456789abcdef", tolower(substr(hex, i, 1))) - 1
    return n
}

function show(path, value) {
    gsub(/\\/, "\\\\", value); gsub(/\t/, "\\t", value); gsub(/\n/, "\\n", value)
    print path "\t" value
}

function value(path,    c, key, n, start) {
    skip()
    c = substr(doc, at, 1)
    if (c == "{") {
        at++; skip()
        if (substr(doc, at, 1) == "}") { at++; return }
        do {
            skip(); key = text(); expect(":"); value(path (path == "" ? "" : ".") key)
            skip(); c = substr(doc, at++, 1)
        } while (c == ",")
        if (c != "}") fail("wanted }")
    } else if (c == "[") {
        at++; skip()
        if (substr(doc, at, 1) == "]") { at++; return }
        n = 0
        do { value(path (path == "" ? "" : ".") n++); skip(); c = substr(doc, at++, 1) } while (c == ",")
        if (c != "]") fail("wanted ]")
    } else if (c == "\"") show(path, text())
    else {
        start = at
        while (substr(doc, at, 1) ~ /[-+.0-9a-zA-Z]/) at++
        if (at == start) fail("unexpected " c)
        show(path, substr(doc, start, at - start))
    }
}

{ doc = doc $0 "\n" }
END { at = 1; value(""); skip(); if (at <= length(doc)) fail("more than one value") }
