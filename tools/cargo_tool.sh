# For the scripts beside it: `cargo_tool NAME VERSION` sets TOOL to the program, installed into .cache of the checkout
# unless the machine has it.

cargo_tool() {
    if TOOL=$(command -v "$1"); then
        return
    fi
    TOOL=$PWD/.cache/cargo/bin/$1
    if [ ! -x "$TOOL" ]; then
        echo "installing $1 $2 (once, into .cache/cargo)"
        cargo install -q --locked --root .cache/cargo "$1" --version "$2"
    fi
}
