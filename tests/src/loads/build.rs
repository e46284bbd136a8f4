//! A source tree in which `make` runs repeatedly: headers and sources change by rename as editors save them, objects, an
//! archive and a program are rebuilt, and sometimes everything is cleaned.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Versions, Worker};
use crate::load::{Load, Random, Stop, Written};
use crate::mounts::run;

const SOURCES: u64 = 12;
const MAKEFILE: &str = "CFLAGS = -O0 -g -MMD -Iinclude
OBJECTS = $(patsubst src/%.c,obj/%.o,$(wildcard src/*.c))
app: obj/main.o obj/libparts.a
\t$(CC) -o $@ $^
obj/libparts.a: $(filter-out obj/main.o,$(OBJECTS))
\trm -f $@; ar rc $@ $^
obj/%.o: src/%.c
\t@mkdir -p obj
\t$(CC) $(CFLAGS) -c -o $@ $<
clean:
\trm -rf obj app
-include $(wildcard obj/*.d)
";

#[derive(Default)]
pub struct Build {
    dir: PathBuf,
    worker: Option<Worker<State>>,
}

struct State {
    dir: PathBuf,
    random: Random,
    versions: Versions,
    written: u64,
    round: u64,
}

impl Build {
    pub const PROGRAMS: [&'static str; 4] = ["make", "cc", "ar", "ld"];
}

fn source(part: u64, round: u64) -> String {
    let mut text = format!("#include \"parts.h\"\n/* round {round} */\n");
    for function in 0..20 {
        let _ = writeln!(text, "int part_{part}_{function}(int x) {{ return x * {round} + {function} + LIMIT; }}");
    }
    text
}

fn header(round: u64) -> String {
    let mut text = format!("#define LIMIT {round}\n");
    for part in 0..SOURCES {
        let _ = writeln!(text, "int part_{part}_0(int x);");
    }
    text
}

/// Prints the round of the header, so that a stale object is noticed.
fn main_source() -> String {
    let mut text = String::from("#include <stdio.h>\n#include \"parts.h\"\nint main(void) {\n  int sum = 0;\n");
    for part in 0..SOURCES {
        let _ = writeln!(text, "  sum += part_{part}_0(0);");
    }
    text + "  printf(\"%d %d\\n\", LIMIT, sum);\n  return 0;\n}\n"
}

fn make(dir: &Path, targets: &[&str]) {
    run(Command::new("make").arg("-s").arg("-C").arg(dir).args(targets));
}

/// Saves as editors do.
fn save(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("save");
    fs::rename(&beside, path).expect("save");
}

impl State {
    fn step(&mut self) {
        self.round += 1;
        for _ in 0..1 + self.random.below(3) {
            let part = self.random.below(SOURCES);
            save(&self.dir.join(format!("src/part{part}.c")), &source(part, self.round));
        }
        if self.random.one_in(10) {
            save(&self.dir.join("include/parts.h"), &header(self.round));
        }
        if self.random.one_in(15) {
            make(&self.dir, &["clean"]);
        }
        self.written += self.versions.changed(&self.dir).expect("look at the tree");
        make(&self.dir, &["app"]);
        self.written += self.versions.changed(&self.dir).expect("look at the tree");
    }
}

impl Load for Build {
    fn prepare(&mut self, dir: &Path) {
        self.dir = dir.to_path_buf();
        for name in ["src", "include"] {
            fs::create_dir(dir.join(name)).expect("mkdir");
        }
        fs::write(dir.join("Makefile"), MAKEFILE).expect("the makefile");
        fs::write(dir.join("include/parts.h"), header(0)).expect("the header");
        fs::write(dir.join("src/main.c"), main_source()).expect("main");
        for part in 0..SOURCES {
            fs::write(dir.join(format!("src/part{part}.c")), source(part, 0)).expect("a source");
        }
        make(dir, &["app"]);
    }

    fn start(&mut self) {
        let mut versions = Versions::default();
        versions.changed(&self.dir).expect("look at the tree");
        let state = State { dir: self.dir.clone(), random: Random::new(9), versions, written: 0, round: 0 };
        self.worker = Some(Worker::start(state, State::step));
    }

    fn stop(&mut self, _how: Stop) -> Written {
        let state = self.worker.take().expect("started").stop();
        Written { bytes: state.written, mapped: 0 }
    }

    fn check(&mut self, copy: &Path) {
        let ours = run(&mut Command::new(self.dir.join("app")));
        assert_eq!(ours, run(&mut Command::new(copy.join("app"))), "what the restored program prints");
        // With times equal to the nanosecond, nothing needs to be built again.
        let status = Command::new("make").args(["-q", "-C"]).arg(copy).arg("app").status().expect("make");
        assert!(status.success(), "make finds something to do in the restored tree");
    }
}
