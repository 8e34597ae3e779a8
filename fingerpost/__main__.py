from fingerpost.cli import main

main()
