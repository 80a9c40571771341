//! A program on a pseudo-terminal, and what a person sees there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, Winsize};
use vt100::Parser;

use super::{DEADLINE, installed};

/// A terminal with a program that has it for standard output and standard error, and that its Ctrl-C reaches.
pub struct Terminal {
    child: Child,
    /// None once it has hung up.
    keyboard: Option<File>,
    state: Arc<(Mutex<State>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

struct State {
    screen: Parser,
    written: Vec<u8>,
    /// Rows and columns that it is about to have.
    new_size: Option<(u16, u16)>,
    /// Nobody looks at it any more.
    is_left: bool,
}

/// What is left when the program has ended.
pub struct Left {
    pub status: i32,
    pub lines: Vec<String>,
    pub cursor_is_hidden: bool,
    /// Every byte that the program wrote.
    pub written: Vec<u8>,
}

impl Terminal {
    /// Starts the command on a terminal of so many rows and columns; none where `setsid` is missing.
    pub fn start(command: &Command, (rows, columns): (u16, u16)) -> Option<Self> {
        let setsid = installed("setsid")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&keyboard).unwrap();
        rustix::pty::unlockpt(&keyboard).unwrap();
        rustix::termios::tcsetwinsize(&keyboard, size(rows, columns)).unwrap();
        let name = rustix::pty::ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let tty = File::options().read(true).write(true).open(name).unwrap();
        // Else an interrupt throws away what was written and not shown yet, and what is left is a matter of chance.
        let mut modes = rustix::termios::tcgetattr(&tty).unwrap();
        modes.local_modes |= LocalModes::NOFLSH;
        rustix::termios::tcsetattr(&tty, OptionalActions::Now, &modes).unwrap();

        let mut on_terminal = Command::new(setsid);
        on_terminal.arg("--ctty").arg(command.get_program()).args(command.get_args());
        on_terminal.current_dir(command.get_current_dir().unwrap()).env("TERM", "xterm-256color");
        for (key, value) in command.get_envs() {
            on_terminal.env(key, value.unwrap());
        }
        on_terminal.stdin(tty.try_clone().unwrap()).stdout(tty.try_clone().unwrap()).stderr(tty);
        let child = on_terminal.spawn().unwrap();
        drop(on_terminal);

        let screen = Parser::new(rows, columns, 1000);
        let state = State { screen, written: Vec::new(), new_size: None, is_left: false };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let keyboard = File::from(keyboard);
        let reader = Some(thread::spawn({
            let (from, state) = (keyboard.try_clone().unwrap(), Arc::clone(&state));
            move || show(from, &state)
        }));
        Some(Self { child, keyboard: Some(keyboard), state, reader })
    }

    pub fn type_in(&mut self, keys: &[u8]) {
        self.keyboard.as_ref().unwrap().write_all(keys).unwrap();
    }

    /// Right after a painting, so that nothing that was painted for the old size comes to the new one. The program has
    /// to be one that paints.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.state.0.lock().unwrap().new_size = Some((rows, columns));
        assert!(super::wait_until(|| self.state.0.lock().unwrap().new_size.is_none()));
    }

    /// Waits until the lines on the screen are as wanted; looks at them after each change, and often enough for a
    /// `wanted` that also keeps the other side going.
    pub fn wait_for_lines(&self, mut wanted: impl FnMut(&[String]) -> bool) -> Vec<String> {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let started = Instant::now();
        loop {
            let lines = lines(&self.state.0.lock().unwrap().screen);
            if wanted(&lines) {
                return lines;
            }
            assert!(started.elapsed() < DEADLINE, "not as wanted: {lines:#?}");
            drop(self.state.1.wait_timeout(self.state.0.lock().unwrap(), LOOK_EVERY).unwrap());
        }
    }

    /// Waits for a line that begins so; gives its rest.
    pub fn wait_for_line(&self, beginning: &str) -> String {
        let rest = |lines: &[String]| lines.iter().find_map(|line| line.strip_prefix(beginning).map(str::to_owned));
        rest(&self.wait_for_lines(|lines| rest(lines).is_some())).unwrap()
    }

    /// Hangs up, as a window that is closed does. The program has to be one that paints.
    pub fn hang_up(&mut self) {
        self.state.0.lock().unwrap().is_left = true;
        self.reader.take().unwrap().join().unwrap();
        self.keyboard = None;
    }

    /// The exit status of the program, once it has ended by itself.
    pub fn status(&mut self) -> i32 {
        let mut status = None;
        super::wait_until(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        super::shell_status(status.unwrap_or_else(|| panic!("still running: {:?}", self.child)))
    }

    /// Waits until the program has ended by itself.
    pub fn finish(mut self) -> Left {
        // The terminal hangs up when nobody has it open any more.
        let hung_up = super::wait_until(|| self.reader.as_ref().is_none_or(JoinHandle::is_finished));
        assert!(hung_up, "still running: {:?}", self.child);
        let status = self.status();
        let state = self.state.0.lock().unwrap();
        Left {
            status,
            lines: lines(&state.screen),
            cursor_is_hidden: state.screen.screen().hide_cursor(),
            written: state.written.clone(),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn show(mut from: File, state: &(Mutex<State>, Condvar)) {
    let mut buffer = [0; 4096];
    // A hang-up is an error here (EIO).
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        let mut locked = state.0.lock().unwrap();
        locked.screen.process(&buffer[..bytes]);
        locked.written.extend_from_slice(&buffer[..bytes]);
        if let Some((rows, columns)) = locked.new_size.take() {
            locked.screen.screen_mut().set_size(rows, columns);
            rustix::termios::tcsetwinsize(&from, size(rows, columns)).unwrap();
        }
        let is_left = locked.is_left;
        drop(locked);
        state.1.notify_all();
        if is_left {
            return;
        }
    }
}

/// The rows that are not empty.
fn lines(screen: &Parser) -> Vec<String> {
    let screen = screen.screen();
    let rows = screen.rows(0, screen.size().1);
    rows.map(|row| row.trim_end().to_owned()).filter(|row| !row.is_empty()).collect()
}
